package server

import (
	"hearth/api"
	"hearth/internal/brain/vault"
)

func (s *server) vaultRoutes() []route {
	const (
		vaults        = "/v1/vaults"
		oneVault      = vaults + "/{vault_id}"
		credentials   = oneVault + "/credentials"
		oneCredential = credentials + "/{credential_id}"
	)
	return []route{
		{"POST", vaults, developer, s.createVault},
		{"GET", vaults, viewer, s.listVaults},
		{"GET", oneVault, viewer, s.getVault},
		{"POST", oneVault, developer, s.updateVault},
		{"DELETE", oneVault, developer, s.deleteVault},
		{"POST", oneVault + "/archive", developer, s.archiveVault},
		{"POST", credentials, developer, s.createCredential},
		{"GET", credentials, viewer, s.listCredentials},
		{"GET", oneCredential, viewer, s.getCredential},
		{"POST", oneCredential, developer, s.updateCredential},
		{"DELETE", oneCredential, developer, s.deleteCredential},
		{"POST", oneCredential + "/archive", developer, s.archiveCredential},
		{"POST", oneCredential + "/mcp_oauth_validate", developer, s.validateCredential},
	}
}

func (s *server) createVault(r *request) (any, error) {
	var p vault.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Vaults.Create(r.Context(), r.principal.WorkspaceID, p)
}

func (s *server) listVaults(r *request) (any, error) {
	q := r.params()
	after, limit, archived := q.cursor("vaults").ID, q.limit(), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Vaults.List(r.Context(), r.principal.WorkspaceID, after, limit, archived)
	return page(list, more, func(v api.Vault) cursor { return cursor{List: "vaults", ID: v.ID} }), err
}

func (s *server) getVault(r *request) (any, error) {
	return s.Vaults.Get(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"))
}

func (s *server) updateVault(r *request) (any, error) {
	var p vault.Params
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Vaults.Update(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), p)
}

func (s *server) archiveVault(r *request) (any, error) {
	return s.Vaults.Archive(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"))
}

func (s *server) deleteVault(r *request) (any, error) {
	id := r.PathValue("vault_id")
	return api.Deleted{ID: id, Type: "vault_deleted"}, s.Vaults.Delete(r.Context(), r.principal.WorkspaceID, id)
}

func (s *server) createCredential(r *request) (any, error) {
	var p vault.CredentialParams
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Vaults.CreateCredential(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), p)
}

func (s *server) listCredentials(r *request) (any, error) {
	q := r.params()
	id := r.PathValue("vault_id")
	name := "credentials of " + id
	after, limit, archived := q.cursor(name).ID, q.limit(), q.flag("include_archived")
	if q.err != nil {
		return nil, q.err
	}
	list, more, err := s.Vaults.ListCredentials(r.Context(), r.principal.WorkspaceID, id, after, limit, archived)
	return page(list, more, func(c api.Credential) cursor { return cursor{List: name, ID: c.ID} }), err
}

func (s *server) getCredential(r *request) (any, error) {
	return s.Vaults.GetCredential(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), r.PathValue("credential_id"))
}

func (s *server) updateCredential(r *request) (any, error) {
	var p vault.CredentialParams
	if err := r.decode(&p); err != nil {
		return nil, err
	}
	return s.Vaults.UpdateCredential(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), r.PathValue("credential_id"), p)
}

func (s *server) archiveCredential(r *request) (any, error) {
	return s.Vaults.ArchiveCredential(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), r.PathValue("credential_id"))
}

func (s *server) deleteCredential(r *request) (any, error) {
	id := r.PathValue("credential_id")
	return api.Deleted{ID: id, Type: "vault_credential_deleted"}, s.Vaults.DeleteCredential(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), id)
}

func (s *server) validateCredential(r *request) (any, error) {
	return s.Vaults.Validate(r.Context(), r.principal.WorkspaceID, r.PathValue("vault_id"), r.PathValue("credential_id"))
}
