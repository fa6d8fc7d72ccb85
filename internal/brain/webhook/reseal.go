package webhook

import (
	"context"

	"hearth/internal/brain/seal"
)

// Reseal has the secrets of all endpoints sealed anew, and returns how many that
// has changed.
func (s *Store) Reseal(ctx context.Context, anew seal.AnewFunc) (changed int, err error) {
	return seal.AnewRows(ctx, s.DB, "webhook_endpoints", "id", "secret", anew)
}
