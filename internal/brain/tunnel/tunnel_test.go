package tunnel

import (
	"slices"
	"strings"
	"testing"

	"gocloud.dev/secrets/localsecrets"

	"hearth/internal/brain/seal"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// TestTokensAreSealed: the database holds no token as it is, and of one that is
// retired only why.
func TestTokensAreSealed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		sealer, err := seal.New(t.Context(), d, localsecrets.NewKeeper([32]byte{1}))
		must(t, err)
		s, err := New(t.Context(), Config{DB: d, Sealer: sealer, Domain: "reach.example"})
		must(t, err)
		made, err := s.Create(t.Context(), "w", nil)
		must(t, err)
		if !strings.HasSuffix(made.Domain, ".reach.example") {
			t.Errorf("it is named %s", made.Domain)
		}
		token, err := s.Token(t.Context(), "w", made.ID)
		must(t, err)
		rows := func(query string) (all []string) {
			t.Helper()
			must(t, d.Read(t.Context(), func(tx db.Tx) (err error) {
				all, err = db.Strings(tx.Query(t.Context(), query))
				return err
			}))
			return all
		}
		if kept := rows("SELECT sealed || hash FROM tunnel_tokens"); len(kept) != 1 || strings.Contains(kept[0], token.TunnelToken) {
			t.Error("the token is in the database as it is")
		}
		reason := "yearly"
		_, err = s.Rotate(t.Context(), "w", made.ID, &reason)
		must(t, err)
		if reasons := rows("SELECT reason FROM tunnel_tokens WHERE retired_at IS NOT NULL AND sealed IS NULL"); !slices.Equal(reasons, []string{reason}) {
			t.Errorf("retired tokens have the reasons %q", reasons)
		}
		if _, err := s.Token(t.Context(), "another", made.ID); err == nil {
			t.Error("another workspace is told the token")
		}

		// Sealed anew, once for each new data key, it is the same.
		const sealed = "SELECT sealed FROM tunnel_tokens WHERE sealed IS NOT NULL"
		before := rows(sealed)
		token, err = s.Token(t.Context(), "w", made.ID)
		must(t, err)
		must(t, sealer.Rotate(t.Context()))
		for _, want := range []int{1, 0} {
			if n, err := s.Reseal(t.Context(), sealer.Anew); n != want || err != nil {
				t.Errorf("%d tokens sealed anew, want %d: %v", n, want, err)
			}
		}
		if again, err := s.Token(t.Context(), "w", made.ID); err != nil || again != token {
			t.Errorf("after that the token is %+v, %v", again, err)
		}
		if slices.Equal(rows(sealed), before) {
			t.Error("nothing was sealed anew")
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
