package api

import "time"

// Tunnel is a way to MCP servers inside a network: URLs whose host is below
// Domain go through it.
type Tunnel struct {
	ID          string     `json:"id"`
	Type        string     `json:"type"` // "tunnel"
	Domain      string     `json:"domain"`
	DisplayName *string    `json:"display_name"`
	CreatedAt   time.Time  `json:"created_at"`
	ArchivedAt  *time.Time `json:"archived_at"`
}

// TunnelToken is what a tunnel's connector shows to be let in. ID changes with
// the token and is no secret.
type TunnelToken struct {
	ID          string `json:"id"`
	Type        string `json:"type"` // "tunnel_token"
	TunnelToken string `json:"tunnel_token"`
}

// TunnelCertificate is a CA that the servers at a tunnel's far end are trusted by.
type TunnelCertificate struct {
	ID          string     `json:"id"`
	Type        string     `json:"type"` // "tunnel_certificate"
	TunnelID    string     `json:"tunnel_id"`
	Fingerprint string     `json:"fingerprint"` // SHA-256 of the DER encoding, in lowercase hex
	ExpiresAt   *time.Time `json:"expires_at"`
	CreatedAt   time.Time  `json:"created_at"`
	ArchivedAt  *time.Time `json:"archived_at"`
}
