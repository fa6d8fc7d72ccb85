// Package blob opens the store for what is too large for the database: the
// bodies of files and skills, and parked sandboxes. It is a directory by
// default, and an object store by URL when there is more than one machine. It
// knows nothing of what is kept in it.
package blob

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"
)

// Open opens the store at a URL: s3://bucket?region=…&endpoint=… for anything
// that speaks S3, with credentials from the environment as AWS's own tools find
// them, or a directory, as file:///path or a plain path, which is made if need
// be. A prefix=… parameter keeps to a part of the bucket.
func Open(ctx context.Context, target string) (*blob.Bucket, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("the blob store's address is not a URL")
	}
	switch u.Scheme {
	case "":
		return directory(target)
	case "file":
		return directory(u.Path)
	}
	bucket, err := blob.OpenBucket(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("open the blob store %s: %w", u.Redacted(), err)
	}
	return bucket, nil
}

func directory(path string) (*blob.Bucket, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the blob store: %w", err)
	}
	// Files are written beside their place and renamed, so a write that was cut
	// short is never taken for a whole one.
	bucket, err := fileblob.OpenBucket(path, &fileblob.Options{Metadata: fileblob.MetadataDontWrite, NoTempDir: true, DirFileMode: 0o700})
	if err != nil {
		return nil, fmt.Errorf("open the blob store: %w", err)
	}
	return bucket, nil
}

// Write stores what write writes under a key: all of it, or nothing if write or
// the store fails.
func Write(ctx context.Context, bucket *blob.Bucket, key string, write func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx) // a writer whose context has ended leaves nothing behind
	defer cancel()
	w, err := bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	if err := write(w); err != nil {
		cancel()
		_ = w.Close() // which says that it was cancelled
		return err
	}
	return w.Close()
}

// Remove removes what is under a key, if there is something.
func Remove(ctx context.Context, bucket *blob.Bucket, key string) error {
	if err := bucket.Delete(ctx, key); gcerrors.Code(err) != gcerrors.NotFound {
		return err
	}
	return nil
}
