package secret

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

func TestKeysAreLongUniqueAndSayWhatTheyAre(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		key := New(PrefixEnvironmentKey)
		if body, ok := strings.CutPrefix(key, PrefixEnvironmentKey); !ok || len(body) != 52 {
			t.Fatalf("a key has %d characters after its prefix, want 52", len(body))
		}
		if seen[key] {
			t.Fatal("the same key was made twice")
		}
		seen[key] = true
	}
}

func TestHashTellsKeysApartAndNothingOfThem(t *testing.T) {
	one, other := New(PrefixAPIKey), New(PrefixAPIKey)
	if Hash(one) == Hash(other) {
		t.Error("two keys have the same hash")
	}
	if again := strings.Clone(one); Hash(again) != Hash(one) {
		t.Error("a key has two hashes")
	}
	if strings.Contains(Hash(one), one) || strings.Contains(Hash(one), one[len(PrefixAPIKey):][:8]) {
		t.Error("the hash shows its key")
	}
}

func TestServersOfOneDatabaseSignWithOneKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		keys := make(chan []byte, 8)
		var asking sync.WaitGroup
		for range cap(keys) {
			asking.Go(func() {
				key, err := SigningKey(t.Context(), d)
				if err != nil {
					t.Errorf("signing key: %v", err)
				}
				keys <- key
			})
		}
		asking.Wait()
		close(keys)
		first := <-keys
		if len(first) != 32 {
			t.Errorf("the key has %d bytes, want 32", len(first))
		}
		for key := range keys {
			if !bytes.Equal(key, first) {
				t.Error("two servers got different keys")
			}
		}
	})
}

func TestDatabasesDoNotShareTheirKey(t *testing.T) {
	one, err := SigningKey(t.Context(), dbtest.OpenSQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	other, err := SigningKey(t.Context(), dbtest.OpenSQLite(t))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one, other) {
		t.Error("two databases have the same key")
	}
}
