package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gocloud.dev/blob"

	"hearth/internal/db"
)

const (
	// sweepEvery is how often what nobody can reach any more is removed.
	sweepEvery = time.Hour
	// upload is the longest an upload may take.
	upload = 24 * time.Hour
	// sweepBatch is how many bodies are looked up at once.
	sweepBatch = 500
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
	var batch []string
	list := s.bodies.List(&blob.ListOptions{Prefix: prefix})
	for {
		object, err := list.Next(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("list bodies of files: %w", err)
		}
		if err == nil && s.now().Sub(object.ModTime) > upload {
			batch = append(batch, strings.TrimPrefix(object.Key, prefix))
		}
		if len(batch) == sweepBatch || err != nil && len(batch) > 0 {
			if err := s.discardUnknown(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if err != nil {
			return nil
		}
	}
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

// discardUnknown removes those of the bodies that are no file's.
func (s *Store) discardUnknown(ctx context.Context, ids []string) error {
	unknown := map[string]bool{}
	args := make([]any, len(ids))
	for i, id := range ids {
		unknown[id], args[i] = true, id
	}
	err := s.db.Read(ctx, func(tx db.Tx) error {
		known, err := db.Strings(tx.Query(ctx, "SELECT id FROM files WHERE id IN (?"+strings.Repeat(", ?", len(ids)-1)+")", args...))
		for _, id := range known {
			delete(unknown, id)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look up bodies of files: %w", err)
	}
	for id := range unknown {
		s.discard(ctx, id)
	}
	return nil
}
