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

func TestTheSigningKeyIsKept(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		first, err := SigningKey(t.Context(), d)
		if err != nil || len(first) != 32 {
			t.Fatalf("a key of %d bytes, %v; want 32", len(first), err)
		}
		if again, err := SigningKey(t.Context(), d); err != nil || !bytes.Equal(again, first) {
			t.Errorf("asked again, the database has another key, or none: %v", err)
		}
	})
}

// Only on Postgres do several servers share a database.
func TestServersThatStartTogetherSignWithOneKey(t *testing.T) {
	url := dbtest.PostgresURL(t)
	keys := make(chan []byte, 4)
	var starting sync.WaitGroup
	for range cap(keys) {
		d := dbtest.Open(t, url)
		starting.Go(func() {
			key, err := SigningKey(t.Context(), d)
			if err != nil {
				t.Errorf("signing key: %v", err)
			}
			keys <- key
		})
	}
	starting.Wait()
	close(keys)
	first := <-keys
	for key := range keys {
		if !bytes.Equal(key, first) {
			t.Error("two servers got different keys")
		}
	}
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
