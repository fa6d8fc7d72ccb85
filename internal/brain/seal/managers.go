package seal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path"

	vaultapi "github.com/hashicorp/vault/api"
	"gocloud.dev/gcerrors"
	"gocloud.dev/secrets"
	_ "gocloud.dev/secrets/awskms" // each of these adds a scheme to secrets.OpenKeeper
	_ "gocloud.dev/secrets/azurekeyvault"
	_ "gocloud.dev/secrets/gcpkms"
)

// The Go module proxy does not serve the driver that gocloud.dev has for HashiCorp
// Vault, so this is one, for the same URLs: hashivault://KEY?engine=transit. Where
// Vault is, and the token for it, are in the variables that Vault's own client
// reads: VAULT_ADDR, VAULT_TOKEN, VAULT_CACERT and others.
func init() {
	secrets.DefaultURLMux().RegisterKeeper("hashivault", transitOpener{})
}

type transitOpener struct{}

func (transitOpener) OpenKeeperURL(_ context.Context, u *url.URL) (*secrets.Keeper, error) {
	query := u.Query()
	engine := "transit"
	if query.Has("engine") {
		engine = query.Get("engine")
		query.Del("engine")
	}
	key := path.Join(u.Host, u.Path)
	switch {
	case len(query) > 0:
		return nil, fmt.Errorf("%s: the only parameter is engine", u.Redacted())
	case key == "" || engine == "":
		return nil, fmt.Errorf("%s: want hashivault://KEY or hashivault://KEY?engine=MOUNT", u.Redacted())
	}
	client, err := vaultapi.NewClient(nil) // it reads its variables by itself
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return secrets.NewKeeper(&transit{client: client, engine: engine, key: key}), nil
}

// transit has Vault's transit engine encrypt and decrypt.
type transit struct {
	client      *vaultapi.Client
	engine, key string
}

func (t *transit) Encrypt(ctx context.Context, plaintext []byte) ([]byte, error) {
	out, err := t.ask(ctx, "encrypt", "plaintext", base64.StdEncoding.EncodeToString(plaintext), "ciphertext")
	return []byte(out), err
}

func (t *transit) Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error) {
	out, err := t.ask(ctx, "decrypt", "ciphertext", string(ciphertext), "plaintext")
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(out)
}

func (t *transit) ask(ctx context.Context, what, field, value, wanted string) (string, error) {
	answer, err := t.client.Logical().WriteWithContext(ctx, path.Join(t.engine, what, t.key), map[string]any{field: value})
	if err != nil {
		return "", err
	}
	if answer != nil {
		if out, ok := answer.Data[wanted].(string); ok {
			return out, nil
		}
	}
	return "", fmt.Errorf("the answer of Vault's transit engine has no %s", wanted)
}

// Close implements driver.Keeper.
func (t *transit) Close() error { return nil }

// ErrorAs implements driver.Keeper.
func (t *transit) ErrorAs(err error, target any) bool { return errors.As(err, target) }

// ErrorCode implements driver.Keeper.
func (t *transit) ErrorCode(err error) gcerrors.ErrorCode {
	var answer *vaultapi.ResponseError
	if !errors.As(err, &answer) {
		return gcerrors.Unknown
	}
	switch answer.StatusCode {
	case 400:
		return gcerrors.InvalidArgument
	case 403:
		return gcerrors.PermissionDenied
	case 404:
		return gcerrors.NotFound
	}
	return gcerrors.Unknown
}
