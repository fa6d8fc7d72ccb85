package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gocloud.dev/blob"
)

// sweepBatch is how many keys are looked up at once.
const sweepBatch = 500

// Sweep removes what is below prefix, was written before the time given and is
// not known: what a write or a removal that was cut short has left. Known is
// asked with keys that lack the prefix, and returns those that stay.
func Sweep(ctx context.Context, bucket *blob.Bucket, prefix string, before time.Time, known func(ctx context.Context, keys []string) ([]string, error)) error {
	var batch []string
	for list := bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := list.Next(ctx)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return fmt.Errorf("list what is below %s: %w", prefix, err)
		}
		if !end && object.ModTime.Before(before) {
			batch = append(batch, strings.TrimPrefix(object.Key, prefix))
		}
		if len(batch) == sweepBatch || end && len(batch) > 0 {
			if err := removeUnknown(ctx, bucket, prefix, batch, known); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if end {
			return nil
		}
	}
}

func removeUnknown(ctx context.Context, bucket *blob.Bucket, prefix string, keys []string, known func(ctx context.Context, keys []string) ([]string, error)) error {
	stay, err := known(ctx, keys)
	if err != nil {
		return fmt.Errorf("look up what is below %s: %w", prefix, err)
	}
	for _, key := range keys {
		if slices.Contains(stay, key) {
			continue
		}
		if err := Remove(ctx, bucket, prefix+key); err != nil {
			return fmt.Errorf("remove %s: %w", prefix+key, err)
		}
	}
	return nil
}
