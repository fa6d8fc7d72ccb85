package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// The limits of a tunnel's certificates.
const (
	maxCertificates = 2 // that are not archived, so that one can follow the other without a pause
	maxPEM          = 8 << 10
	minRSA          = 2048
	minECDSA        = 256
)

const pemField = "ca_certificate_pem"

// signatures are the algorithms a certificate may be signed with: those that
// hash with SHA-256 or better.
var signatures = []x509.SignatureAlgorithm{
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
	x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512,
}

// never is how a certificate says that it does not expire (RFC 5280, 4.1.2.5).
var never = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// parse reads the one CA certificate of a PEM text, and checks that a tunnel may
// trust it.
func parse(text string, now time.Time) (*x509.Certificate, error) {
	if text == "" {
		return nil, api.Invalid(pemField, "is required")
	}
	if len(text) > maxPEM {
		return nil, api.Invalid(pemField, "has %d bytes, at most %d are allowed", len(text), maxPEM)
	}
	if strings.Contains(text, "PRIVATE KEY") {
		return nil, api.Invalid(pemField, "holds a private key, which must stay with you; send the certificate only, and make a new key")
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, api.Invalid(pemField, "must be one certificate in PEM, between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----")
	}
	before, after, _ := strings.Cut(text, "-----BEGIN")
	if strings.TrimSpace(before) != "" || strings.Contains(after, "-----BEGIN") || len(bytes.TrimSpace(rest)) > 0 {
		return nil, api.Invalid(pemField, "must hold exactly one certificate and nothing else")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, api.Invalid(pemField, "is not a certificate: %v", err)
	}
	return cert, check(cert, now)
}

// check holds a certificate against the rules for the CA of a tunnel.
func check(cert *x509.Certificate, now time.Time) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || !criticalConstraints(cert):
		return api.Invalid(pemField, "is not the certificate of a CA: it needs the extension basicConstraints with CA:TRUE, critical")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return api.Invalid(pemField, "may not sign certificates: it needs the extension keyUsage with keyCertSign")
	case len(cert.SubjectKeyId) == 0:
		return api.Invalid(pemField, "lacks the extension subjectKeyIdentifier")
	case !slices.Contains(signatures, cert.SignatureAlgorithm):
		return api.Invalid(pemField, "is signed with %s; it must be signed with RSA or ECDSA, and SHA-256 or better", cert.SignatureAlgorithm)
	case now.Before(cert.NotBefore):
		return api.Invalid(pemField, "is not valid before %s", cert.NotBefore.UTC().Format(time.RFC3339))
	case now.After(cert.NotAfter):
		return api.Invalid(pemField, "has expired at %s", cert.NotAfter.UTC().Format(time.RFC3339))
	}
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return api.Invalid(pemField, "has an RSA key of %d bits, at least %d are needed", key.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey:
		if key.Params().BitSize < minECDSA {
			return api.Invalid(pemField, "has an ECDSA key on %s; it must be P-256 or larger", key.Params().Name)
		}
	default:
		return api.Invalid(pemField, "has a key of the kind %s; it must be RSA or ECDSA", cert.PublicKeyAlgorithm)
	}
	return nil
}

var basicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}

func criticalConstraints(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(basicConstraints) {
			return e.Critical
		}
	}
	return false
}

const certColumns = "id, tunnel_id, fingerprint, expires_at, created_at, archived_at"

func scanCert(row interface{ Scan(...any) error }) (api.TunnelCertificate, error) {
	c := api.TunnelCertificate{Type: "tunnel_certificate"}
	var expires, created int64
	var archived sql.NullInt64
	err := row.Scan(&c.ID, &c.TunnelID, &c.Fingerprint, &expires, &created, &archived)
	if expires != never.UnixMicro() {
		c.ExpiresAt = stamp(sql.NullInt64{Int64: expires, Valid: true})
	}
	c.CreatedAt, c.ArchivedAt = *stamp(sql.NullInt64{Int64: created, Valid: true}), stamp(archived)
	return c, err
}

// AddCertificate lets a tunnel trust a CA, beside another one at the most.
func (s *Store) AddCertificate(ctx context.Context, workspaceID, tunnelID, text string) (c api.TunnelCertificate, err error) {
	now := s.now()
	cert, err := parse(text, now)
	if err != nil {
		return c, err
	}
	sum := sha256.Sum256(cert.Raw)
	fingerprint := hex.EncodeToString(sum[:])
	id := api.NewID(api.PrefixTunnelCert)
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := active(ctx, tx, workspaceID, tunnelID, tx.ForUpdate()); err != nil {
			return err
		}
		there, err := db.Strings(tx.Query(ctx, "SELECT fingerprint FROM tunnel_certificates WHERE tunnel_id = ? AND archived_at IS NULL", tunnelID))
		switch {
		case err != nil:
			return err
		case slices.Contains(there, fingerprint):
			return api.Conflict("%s: tunnel %s trusts this certificate already", pemField, tunnelID)
		case len(there) >= maxCertificates:
			return api.BadRequest("tunnel %s has %d certificates, which is as many as it may have; archive one first", tunnelID, len(there))
		}
		c, err = scanCert(tx.QueryRow(ctx, "INSERT INTO tunnel_certificates (id, tunnel_id, fingerprint, pem, expires_at, created_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING "+certColumns,
			id, tunnelID, fingerprint, text, cert.NotAfter.UnixMicro(), now.UnixMicro()))
		return err
	})
	return c, err
}

// GetCertificate returns a certificate of a tunnel.
func (s *Store) GetCertificate(ctx context.Context, workspaceID, tunnelID, id string) (c api.TunnelCertificate, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, tunnelID, ""); err != nil {
			return err
		}
		c, err = scanCert(tx.QueryRow(ctx, "SELECT "+certColumns+" FROM tunnel_certificates WHERE id = ? AND tunnel_id = ?", id, tunnelID))
		return certError(id, err)
	})
	return c, err
}

func certError(id string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return api.NotFound("tunnel certificate", id)
	}
	if err != nil {
		return fmt.Errorf("tunnel certificate %s: %w", id, err)
	}
	return nil
}

// ListCertificates returns a page of a tunnel's certificates, newest first, and
// whether more follow.
func (s *Store) ListCertificates(ctx context.Context, workspaceID, tunnelID, after string, limit int, archived bool) ([]api.TunnelCertificate, bool, error) {
	if _, err := s.Get(ctx, workspaceID, tunnelID); err != nil {
		return nil, false, err
	}
	return list(ctx, s.DB, "SELECT "+certColumns+" FROM tunnel_certificates WHERE tunnel_id = ?", []any{tunnelID}, after, limit, archived, scanCert)
}

// ArchiveCertificate ends the trust in a certificate, the last one too.
// Repeating it is harmless.
func (s *Store) ArchiveCertificate(ctx context.Context, workspaceID, tunnelID, id string) (c api.TunnelCertificate, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, tunnelID, ""); err != nil {
			return err
		}
		c, err = scanCert(tx.QueryRow(ctx, "UPDATE tunnel_certificates SET archived_at = COALESCE(archived_at, ?) WHERE id = ? AND tunnel_id = ? RETURNING "+certColumns,
			s.now().UnixMicro(), id, tunnelID))
		return certError(id, err)
	})
	return c, err
}
