// Package depot keeps parked sessions where other workers can get them: a
// session's sandbox, as it was put on disk, with its files, in a blob store,
// encrypted with a key that only the workers have. It owns what is below its
// prefix of the store, and may call only the shared floor.
package depot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"hearth/api"
	blobstore "hearth/internal/blob"
)

// Depot is the part of a blob store that one environment's workers share. Its
// methods are safe for concurrent use.
type Depot struct {
	bucket *blob.Bucket
	key    *age.X25519Identity
	prefix string
	log    *slog.Logger
}

// NewKey makes a key for workers to share.
func NewKey() (string, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", err
	}
	return key.String(), nil
}

// New opens an environment's depot in a store.
func New(bucket *blob.Bucket, key, environmentID string, log *slog.Logger) (*Depot, error) {
	identity, err := age.ParseX25519Identity(strings.TrimSpace(key))
	if err != nil {
		return nil, errors.New("the key for parked sessions must be one line that begins with AGE-SECRET-KEY-1; hearth worker park-key makes one")
	}
	if !api.IsName(environmentID) {
		return nil, fmt.Errorf("environment id %.100q cannot name a place in the store", environmentID)
	}
	return &Depot{bucket, identity, path.Join("parked", environmentID) + "/", log}, nil
}

// Parked describes a session that lies in the depot with its sandbox.
type Parked struct {
	// Generation tells this state of the session from all others.
	Generation string `json:"generation"`
	// Engine and Program are what wrote the sandbox, and all that can read it.
	Engine  string `json:"engine"`
	Program string `json:"program"`
	// Worker is whose it was.
	Worker string    `json:"worker"`
	At     time.Time `json:"at"`
}

// The names below a session's: one of the state that may be gone on from, and the
// states themselves, which are of use for their files even afterwards.
const (
	liveName = "live"
	stateExt = ".tar.zst.age"
)

func (d *Depot) name(sessionID, name string) string { return d.prefix + sessionID + "/" + name }

// Put stores what is in a session's directory: those of names that are there. It
// may be gone on from as soon as Put returns. Base is the host user that stands
// behind the sandbox's root.
func (d *Depot) Put(ctx context.Context, sessionID string, p Parked, dir string, base int, names []string) (size int64, err error) {
	key := d.name(sessionID, p.Generation+stateExt)
	err = blobstore.Write(ctx, d.bucket, key, func(w io.Writer) error {
		counted := &counter{w: w}
		err := d.pack(counted, key, dir, base, names)
		size = counted.n
		return err
	})
	if err != nil {
		return size, fmt.Errorf("store a parked session: %w", err)
	}
	raw, err := json.Marshal(p)
	if err == nil {
		err = d.bucket.WriteAll(ctx, d.name(sessionID, liveName), raw, nil)
	}
	if err != nil {
		return size, fmt.Errorf("store a parked session: %w", err)
	}
	states, err := d.states(ctx, sessionID)
	for _, s := range states {
		if s.Key != key {
			err = errors.Join(err, d.remove(ctx, s.Key))
		}
	}
	if err != nil {
		d.log.Warn("could not remove earlier states of a parked session; they go with their age", "session", sessionID, "error", err)
	}
	return size, nil
}

// pack begins with the name that the state is stored under: whoever may write to the
// store, and cannot read it, must not have one session go on with what is another's.
func (d *Depot) pack(to io.Writer, name, dir string, base int, names []string) error {
	sealed, err := age.Encrypt(to, d.key.Recipient())
	if err != nil {
		return err
	}
	if _, err := io.WriteString(sealed, name); err != nil {
		return err
	}
	packed, err := zstd.NewWriter(sealed, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	return errors.Join(archive(packed, dir, base, names), packed.Close(), sealed.Close())
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// maxLive is more than what describes a state ever takes, in bytes. Who may write to
// the store need not have the key.
const maxLive = 64 << 10

// Look tells whether there is a state of a session that may be gone on from.
func (d *Depot) Look(ctx context.Context, sessionID string) (p Parked, ok bool, err error) {
	raw, err := d.readLive(ctx, sessionID)
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return p, false, nil
	case err == nil:
		err = json.Unmarshal(raw, &p)
	}
	if err == nil && !api.IsName(p.Generation) {
		err = errors.New("what describes it makes no sense")
	}
	if err != nil {
		return p, false, fmt.Errorf("look for a parked session: %w", err)
	}
	return p, true, nil
}

func (d *Depot) readLive(ctx context.Context, sessionID string) ([]byte, error) {
	in, err := d.bucket.NewRangeReader(ctx, d.name(sessionID, liveName), 0, maxLive, nil)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}

// Take has it that nobody else goes on from a state. Two must not call it at once:
// whoever does holds the session's lease.
func (d *Depot) Take(ctx context.Context, sessionID string) error {
	if err := d.remove(ctx, d.name(sessionID, liveName)); err != nil {
		return fmt.Errorf("take a parked session: %w", err)
	}
	return nil
}

// Latest is the state of a session stored last, whether or not it may be gone on
// from; "" for none.
func (d *Depot) Latest(ctx context.Context, sessionID string) (generation string, err error) {
	states, err := d.states(ctx, sessionID)
	if err != nil || len(states) == 0 {
		return "", err
	}
	last := slices.MaxFunc(states, func(a, b *blob.ListObject) int { return a.ModTime.Compare(b.ModTime) })
	return strings.TrimSuffix(path.Base(last.Key), stateExt), nil
}

// ErrGone says that a state is no longer there.
var ErrGone = errors.New("it has been removed, for its age or to make room")

// Fetch brings a state into a directory, which must be there and empty. Base is
// the host user that is to stand behind the sandbox's root.
func (d *Depot) Fetch(ctx context.Context, sessionID, generation, dir string, base int) error {
	key := d.name(sessionID, generation+stateExt)
	in, err := d.bucket.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("fetch a parked session: %w", ErrGone)
	}
	if err != nil {
		return fmt.Errorf("fetch a parked session: %w", err)
	}
	defer in.Close()
	opened, err := age.Decrypt(in, d.key)
	if err != nil {
		return fmt.Errorf("decrypt a parked session, with the key of another fleet of workers? %w", err)
	}
	name := make([]byte, len(key))
	if _, err := io.ReadFull(opened, name); err != nil || string(name) != key {
		return fmt.Errorf("what is stored of a parked session is not its own, or another build's: %w", cmp.Or(err, errors.New("it says another name")))
	}
	unpacked, err := zstd.NewReader(opened, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer unpacked.Close()
	if err := extract(unpacked, dir, base); err != nil {
		return fmt.Errorf("unpack a parked session: %w", err)
	}
	return nil
}

func (d *Depot) states(ctx context.Context, sessionID string) (states []*blob.ListObject, err error) {
	all, err := d.list(ctx, d.prefix+sessionID+"/")
	return slices.DeleteFunc(all, func(o *blob.ListObject) bool { return !strings.HasSuffix(o.Key, stateExt) }), err
}

func (d *Depot) list(ctx context.Context, prefix string) (all []*blob.ListObject, err error) {
	for list := d.bucket.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list parked sessions: %w", err)
		}
		all = append(all, o)
	}
}

func (d *Depot) remove(ctx context.Context, key string) error {
	return blobstore.Remove(ctx, d.bucket, key)
}

// clockName is what has the store say what time it is.
const clockName = "clock"

// now is the time by the store's clock. A worker whose own is wrong must not remove
// what is everybody's.
func (d *Depot) now(ctx context.Context) (time.Time, error) {
	if err := d.bucket.WriteAll(ctx, d.prefix+clockName, nil, nil); err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	written, err := d.bucket.Attributes(ctx, d.prefix+clockName)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the store for the time: %w", err)
	}
	return written.ModTime, nil
}

// Sweep removes what is older than ttl, and then the oldest until the rest takes
// no more than quota bytes.
func (d *Depot) Sweep(ctx context.Context, ttl time.Duration, quota int64) error {
	now, err := d.now(ctx)
	if err != nil {
		return err
	}
	all, err := d.list(ctx, d.prefix)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b *blob.ListObject) int { return b.ModTime.Compare(a.ModTime) })
	total, kept := int64(0), map[string]bool{} // sessions of which a state stays
	for _, o := range all {
		session, isState := path.Dir(o.Key), strings.HasSuffix(o.Key, stateExt)
		if o.Key == d.prefix+clockName {
			continue
		}
		if total += o.Size; total <= quota && now.Sub(o.ModTime) < ttl {
			kept[session] = kept[session] || isState
			continue
		}
		if isState && !kept[session] { // first what says that it may be gone on from
			err = errors.Join(err, d.remove(ctx, path.Join(session, liveName)))
		}
		if e := d.remove(ctx, o.Key); e != nil {
			err = errors.Join(err, e)
			continue
		}
		d.log.Info("removed a parked session from the store, for its age or to make room", "name", o.Key, "size", o.Size)
	}
	return err
}
