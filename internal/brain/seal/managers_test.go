package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/secrets"
	"gocloud.dev/secrets/localsecrets"

	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// manager is what key managers do: encrypt, with a key that does not leave them, for
// a name and a context.
type manager struct{ aead cipher.AEAD }

func newManager(t *testing.T) manager {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return manager{aead}
}

// awsKMS plays the API of AWS KMS: JSON, an operation in a header, requests signed.
func awsKMS(t *testing.T) {
	t.Helper()
	m := newManager(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			KeyID             string `json:"KeyId"`
			Plaintext         []byte
			CiphertextBlob    []byte
			EncryptionContext map[string]string
		}
		fail := func(code string) {
			w.Header().Set("X-Amzn-Errortype", code)
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": code})
		}
		if !strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/kms/aws4_request") {
			fail("AccessDeniedException")
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			fail("SerializationException")
			return
		}
		bound := []byte(fmt.Sprint(slices.Sorted(maps.Keys(in.EncryptionContext)), in.EncryptionContext))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		switch operation := r.Header.Get("X-Amz-Target"); {
		case operation == "TrentService.Encrypt" && in.KeyID != "alias/hearth":
			fail("NotFoundException")
		case operation == "TrentService.Encrypt":
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": in.KeyID, "CiphertextBlob": m.aead.Seal(nil, nil, in.Plaintext, bound)})
		case operation == "TrentService.Decrypt":
			text, err := m.aead.Open(nil, nil, in.CiphertextBlob, bound)
			if err != nil {
				fail("InvalidCiphertextException")
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": "alias/hearth", "Plaintext": text})
		default:
			fail("UnknownOperationException")
		}
	}))
	t.Cleanup(server.Close)
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_KMS": server.URL, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
}

// vaultTransit plays the transit engine of HashiCorp Vault.
func vaultTransit(t *testing.T) {
	t.Helper()
	m := newManager(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		var in struct{ Plaintext, Ciphertext string }
		fail := func(status int, text string) {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
		}
		answer := func(field, value string) {
			_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{field: value}})
		}
		what, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/keys/"), "/")
		switch {
		case err != nil || json.Unmarshal(raw, &in) != nil || r.Method != http.MethodPut:
			fail(http.StatusBadRequest, "no request")
		case r.Header.Get("X-Vault-Token") != "hvs.example":
			fail(http.StatusForbidden, "permission denied")
		case what == "encrypt" && key == "hearth":
			text, err := base64.StdEncoding.DecodeString(in.Plaintext)
			if err != nil {
				fail(http.StatusBadRequest, "plaintext must be base64")
				return
			}
			answer("ciphertext", "vault:v1:"+base64.StdEncoding.EncodeToString(m.aead.Seal(nil, nil, text, []byte(key))))
		case what == "decrypt" && key == "hearth":
			sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Ciphertext, "vault:v1:"))
			if err == nil {
				sealed, err = m.aead.Open(nil, nil, sealed, []byte(key))
			}
			if err != nil {
				fail(http.StatusBadRequest, "cipher: message authentication failed")
				return
			}
			answer("plaintext", base64.StdEncoding.EncodeToString(sealed))
		default:
			fail(http.StatusNotFound, "no handler for route")
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "hvs.example")
	t.Setenv("VAULT_MAX_RETRIES", "0")
}

// TestKeyManagers: what they wrap comes back, to every server, and to nobody without
// the right key.
func TestKeyManagers(t *testing.T) {
	for name, c := range map[string]struct {
		play        func(*testing.T)
		good, wrong string
		says        string
		deny        [2]string // a variable without which it does not work
	}{
		"AWS KMS": {awsKMS, "awskms:///alias/hearth?context_app=hearth", "awskms:///alias/none", "NotFoundException", [2]string{"AWS_REGION", "us-east-1"}},
		"Vault":   {vaultTransit, "hashivault://hearth?engine=keys", "hashivault://none?engine=keys", "no handler", [2]string{"VAULT_TOKEN", "hvs.other"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.play(t)
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				open := func(address string) (*Sealer, error) {
					master, err := OpenMaster(t.Context(), address)
					if err != nil {
						return nil, err
					}
					t.Cleanup(func() { _ = master.Close() }) // these hold nothing open
					return New(t.Context(), d, master)
				}
				first, err := open(c.good)
				if err != nil {
					t.Fatal(err)
				}
				sealed := first.Seal("place", "the secret")
				second, err := open(c.good)
				if err != nil {
					t.Fatal(err)
				}
				if text, err := second.Open(t.Context(), "place", sealed); err != nil || text != "the secret" {
					t.Errorf("another server opens %q, %v", text, err)
				}
				if err := second.Rotate(t.Context()); err != nil {
					t.Error(err)
				}
				wrong, err := OpenMaster(t.Context(), c.wrong)
				if err == nil {
					_, err = first.Rewrap(t.Context(), wrong)
				}
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("with a key that is not there: %v", err)
				}
				if text, err := second.Open(t.Context(), "place", sealed); err != nil || text != "the secret" {
					t.Errorf("after a rewrap that failed it opens %q, %v", text, err)
				}
				t.Setenv(c.deny[0], c.deny[1])
				if _, err := open(c.good); err == nil || !strings.Contains(err.Error(), "master key") || strings.Contains(err.Error(), "the secret") {
					t.Errorf("without leave: %v", err)
				}
			})
		})
	}
}

func TestKeyManagersThatAreLinkedIn(t *testing.T) {
	for _, scheme := range []string{"awskms", "gcpkms", "azurekeyvault", "hashivault"} {
		if !secrets.DefaultURLMux().ValidKeeperScheme(scheme) {
			t.Errorf("there is no %s://", scheme)
		}
	}
	for address, want := range map[string]string{
		"hashivault://": "hashivault://KEY", "hashivault://key?engine=": "hashivault://KEY", "hashivault://key?mount=x": "the only parameter", "awskms:///key?nothing=x": "nothing",
	} {
		if _, err := OpenMaster(t.Context(), address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", address, err, want)
		}
	}
}

// TestRewrap: the master key is another, in one step, and what is sealed stays readable.
func TestRewrap(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		running := sealer(t, d, 1)
		sealed := running.Seal("a", "text")
		rotating := sealer(t, d, 1)
		if err := rotating.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		fresh := rotating.Seal("a", "newer")
		n, err := rotating.Rewrap(t.Context(), localsecrets.NewKeeper([32]byte{2}))
		if err != nil || n != 2 {
			t.Fatal(n, err)
		}
		if _, err := New(t.Context(), d, localsecrets.NewKeeper([32]byte{1})); err == nil {
			t.Error("the master key that was still opens")
		}
		if text, err := running.Open(t.Context(), "a", sealed); err != nil || text != "text" {
			t.Errorf("a server that was running opens %q, %v", text, err)
		}
		later := sealer(t, d, 2)
		for sealed, want := range map[string]string{sealed: "text", fresh: "newer"} {
			if text, err := later.Open(t.Context(), "a", sealed); err != nil || text != want {
				t.Errorf("with the new master key it opens %q, %v", text, err)
			}
		}
		if err := rotating.Rotate(t.Context()); err != nil {
			t.Error("after a rewrap:", err)
		}
		anew, err := rotating.Anew(t.Context(), "a", sealed)
		if err != nil || anew == sealed {
			t.Fatal(anew, err)
		}
		if again, err := rotating.Anew(t.Context(), "a", anew); err != nil || again != anew {
			t.Error("what is new has been sealed once more", err)
		}
		if _, err := rotating.Anew(t.Context(), "b", sealed); err == nil {
			t.Error("sealed anew for another place")
		}
	})
}
