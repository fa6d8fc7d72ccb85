package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
)

// tunnelCA is the certificate of a CA that a tunnel can trust.
func tunnelCA(t *testing.T, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		SubjectKeyId: []byte{1}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTunnels(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		tunnels := s.SDK.Beta.Tunnels
		made, err := tunnels.New(t.Context(), anthropic.BetaTunnelNewParams{DisplayName: anthropic.String("site")})
		must(t, err)
		found, err := tunnels.Get(t.Context(), made.ID, anthropic.BetaTunnelGetParams{})
		must(t, err)
		if found.DisplayName != "site" || !strings.HasSuffix(found.Domain, ".tunnel.internal") {
			t.Errorf("found %s", found.RawJSON())
		}
		first, err := tunnels.RevealToken(t.Context(), made.ID, anthropic.BetaTunnelRevealTokenParams{})
		must(t, err)
		second, err := tunnels.RotateToken(t.Context(), made.ID, anthropic.BetaTunnelRotateTokenParams{Reason: anthropic.String("yearly")})
		must(t, err)
		if first.TunnelToken == second.TunnelToken || first.ID == second.ID {
			t.Error("a rotation changes nothing")
		}
		cert, err := tunnels.Certificates.New(t.Context(), made.ID, anthropic.BetaTunnelCertificateNewParams{CACertificatePEM: tunnelCA(t, 1)})
		must(t, err)
		same, err := tunnels.Certificates.Get(t.Context(), cert.ID, anthropic.BetaTunnelCertificateGetParams{TunnelID: made.ID})
		must(t, err)
		if same.Fingerprint != cert.Fingerprint || len(cert.Fingerprint) != 64 || same.ExpiresAt.IsZero() {
			t.Errorf("found %s", same.RawJSON())
		}
		list := tunnels.Certificates.ListAutoPaging(t.Context(), made.ID, anthropic.BetaTunnelCertificateListParams{Limit: anthropic.Int(1)})
		if !list.Next() || list.Current().ID != cert.ID || list.Next() || list.Err() != nil {
			t.Errorf("listed %s: %v", list.Current().RawJSON(), list.Err())
		}
		archived, err := tunnels.Certificates.Archive(t.Context(), cert.ID, anthropic.BetaTunnelCertificateArchiveParams{TunnelID: made.ID})
		must(t, err)
		if archived.ArchivedAt.IsZero() {
			t.Error("archived, it has no time for that")
		}
		_, err = tunnels.Archive(t.Context(), made.ID, anthropic.BetaTunnelArchiveParams{})
		must(t, err)
		all := tunnels.ListAutoPaging(t.Context(), anthropic.BetaTunnelListParams{IncludeArchived: anthropic.Bool(true), Limit: anthropic.Int(1000)})
		if !all.Next() || all.Current().ID != made.ID || all.Current().ArchivedAt.IsZero() {
			t.Errorf("listed %s: %v", all.Current().RawJSON(), all.Err())
		}
		s.typeScript("tunnels.mjs", "HEARTH_CA="+tunnelCA(t, 2))
	})
}
