package tunnel

import (
	"context"

	"hearth/internal/brain/seal"
)

// Reseal has the tokens of all tunnels sealed anew, and returns how many that
// has changed.
func (s *Store) Reseal(ctx context.Context, anew seal.AnewFunc) (changed int, err error) {
	return seal.AnewRows(ctx, s.DB, "tunnel_tokens", "id", "sealed", anew)
}
