package seal

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"gocloud.dev/secrets"
	"gocloud.dev/secrets/localsecrets"
)

// masterSize is how many bytes a master key has.
const masterSize = 32

// OpenMaster opens the master key at an address: file:///path, a plain path, or
// env:NAME for a key of our own, which is 32 bytes in base64, or the address of a
// key at a key manager: awskms://, gcpkms://, azurekeyvault:// or hashivault://,
// which keeps the key and never gives it out.
func OpenMaster(ctx context.Context, address string) (*secrets.Keeper, error) {
	if name, ok := strings.CutPrefix(address, "env:"); ok {
		return local(os.Getenv(name), "the variable "+name)
	}
	if scheme, _, ok := strings.Cut(address, "://"); ok && scheme != "file" {
		keeper, err := secrets.OpenKeeper(ctx, address)
		if err != nil {
			return nil, fmt.Errorf("open the master key: %w", err)
		}
		return keeper, nil
	}
	path := strings.TrimPrefix(address, "file://")
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("the master key in %s can be read by other users; run: chmod 600 %s", path, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the master key: %w", err)
	}
	return local(string(raw), path)
}

func local(text, where string) (*secrets.Keeper, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != masterSize {
		return nil, fmt.Errorf("the master key in %s must be %d bytes in base64; to make one, run: openssl rand -base64 %d", where, masterSize, masterSize)
	}
	return localsecrets.NewKeeper([masterSize]byte(raw)), nil
}

// EnsureMaster makes a master key at a path unless there is one.
func EnsureMaster(path string) error {
	key := make([]byte, masterSize)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a master key: %w", err)
	}
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(key))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("make a master key: %w", err), os.Remove(path))
	}
	return nil
}
