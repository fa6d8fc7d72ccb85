package file

import (
	"context"
	"fmt"
	"strings"
	"time"

	blobstore "hearth/internal/blob"
	"hearth/internal/db"
)

const (
	// sweepEvery is how often what nobody can reach any more is removed.
	sweepEvery = time.Hour
	// upload is the longest an upload may take.
	upload = 24 * time.Hour
)

// Run removes files that have expired, and bodies without a file, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("could not sweep the files; trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
	}
}

// Sweep removes files that have expired, those of sessions that are gone, and
// bodies without a file: those whose upload or removal was cut short.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.remove(ctx, "expires_at <= ?", s.now().UnixMicro()); err != nil {
		return err
	}
	if err := s.removeOrphans(ctx); err != nil {
		return err
	}
	return blobstore.Sweep(ctx, s.bodies, prefix, s.now().Add(-upload), s.known)
}

// removeOrphans removes the files of sessions that are gone.
func (s *Store) removeOrphans(ctx context.Context) error {
	var sessions []string
	err := s.db.Read(ctx, func(tx db.Tx) (err error) {
		sessions, err = db.Strings(tx.Query(ctx, "SELECT DISTINCT session_id FROM files WHERE session_id IS NOT NULL"))
		return err
	})
	if err != nil {
		return fmt.Errorf("list sessions with files: %w", err)
	}
	for _, id := range sessions {
		there, err := s.exists(ctx, id)
		if err == nil && !there {
			err = s.DeleteOf(ctx, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// known are those of the ids that are files'.
func (s *Store) known(ctx context.Context, ids []string) (known []string, err error) {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		known, err = db.Strings(tx.Query(ctx, "SELECT id FROM files WHERE id IN (?"+strings.Repeat(", ?", len(ids)-1)+")", args...))
		return err
	})
	return known, err
}
