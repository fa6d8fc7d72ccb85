package skill

import (
	"context"
	"strings"
	"time"

	blobstore "hearth/internal/blob"
	"hearth/internal/db"
)

const (
	// sweepEvery is how often archives that nobody can reach are removed.
	sweepEvery = time.Hour
	// upload is the longest an upload may take.
	upload = 24 * time.Hour
)

// Run removes archives without a version until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("could not sweep the skills; trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// Sweep removes archives without a version: those whose upload or removal was
// cut short.
func (s *Store) Sweep(ctx context.Context) error {
	return blobstore.Sweep(ctx, s.bodies, prefix, s.now().Add(-upload), func(ctx context.Context, ids []string) (known []string, err error) {
		args := make([]any, len(ids))
		for i, id := range ids {
			args[i] = id
		}
		err = s.db.Read(ctx, func(tx db.Tx) error {
			known, err = db.Strings(tx.Query(ctx, "SELECT id FROM skill_versions WHERE id IN (?"+strings.Repeat(", ?", len(ids)-1)+")", args...))
			return err
		})
		return known, err
	})
}
