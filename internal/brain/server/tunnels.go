package server

import "hearth/api"

func (s *server) tunnelRoutes() []route {
	const (
		tunnels        = "/v1/tunnels"
		tunnel         = tunnels + "/{tunnel_id}"
		certificates   = tunnel + "/certificates"
		oneCertificate = certificates + "/{certificate_id}"
	)
	return []route{
		{"POST", tunnels, developer, s.createTunnel},
		{"GET", tunnels, viewer, s.listTunnels},
		{"GET", tunnel, viewer, s.getTunnel},
		{"POST", tunnel + "/archive", developer, s.archiveTunnel},
		{"POST", tunnel + "/reveal_token", admin, s.revealToken},
		{"POST", tunnel + "/rotate_token", admin, s.rotateToken},
		{"POST", certificates, developer, s.addCertificate},
		{"GET", certificates, viewer, s.listCertificates},
		{"GET", oneCertificate, viewer, s.getCertificate},
		{"POST", oneCertificate + "/archive", developer, s.archiveCertificate},
	}
}

func (s *server) createTunnel(r *request) (any, error) {
	var p struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Tunnels.Create(r.Context(), r.principal.WorkspaceID, p.DisplayName)
}

func (s *server) listTunnels(r *request) (any, error) {
	q := r.params()
	after, limit, archived := q.cursor("tunnels").ID, q.limitTo(1000), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Tunnels.List(r.Context(), r.principal.WorkspaceID, after, limit, archived)
	return page(list, more, func(t api.Tunnel) cursor { return cursor{List: "tunnels", ID: t.ID} }), err
}

func (s *server) getTunnel(r *request) (any, error) {
	return s.Tunnels.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"))
}

func (s *server) archiveTunnel(r *request) (any, error) {
	return s.Tunnels.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"))
}

func (s *server) revealToken(r *request) (any, error) {
	return s.Tunnels.Token(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"))
}

func (s *server) rotateToken(r *request) (any, error) {
	var p struct {
		Reason *string `json:"reason"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Tunnels.Rotate(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"), p.Reason)
}

func (s *server) addCertificate(r *request) (any, error) {
	var p struct {
		PEM string `json:"ca_certificate_pem"`
	}
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Tunnels.AddCertificate(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"), p.PEM)
}

func (s *server) listCertificates(r *request) (any, error) {
	q := r.params()
	after, limit, archived := q.cursor("tunnel_certificates").ID, q.limitTo(1000), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Tunnels.ListCertificates(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"), after, limit, archived)
	return page(list, more, func(c api.TunnelCertificate) cursor { return cursor{List: "tunnel_certificates", ID: c.ID} }), err
}

func (s *server) getCertificate(r *request) (any, error) {
	return s.Tunnels.GetCertificate(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"), r.PathValue("certificate_id"))
}

func (s *server) archiveCertificate(r *request) (any, error) {
	return s.Tunnels.ArchiveCertificate(r.Context(), r.principal.WorkspaceID, r.PathValue("tunnel_id"), r.PathValue("certificate_id"))
}
