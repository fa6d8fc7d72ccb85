package queue

import (
	"strings"
	"testing"
	"time"

	"hearth/api"
)

func TestTokenIsForItsSessionAndClaim(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		b.offer(t, "", false)
		b.offer(t, "", false)
		for range 2 {
			w := b.poll(t, PollParams{})
			got, err := b.q.VerifyToken(b.ctx, token(t, w))
			want := Token{SessionID: w.Data.ID, EnvironmentID: b.env, WorkID: w.ID, Claim: 1}
			if err != nil || got != want {
				t.Errorf("the token stands for %+v (%v), want %+v", got, err, want)
			}
		}
	})
}

func TestOnlyAPollTellsTheSecret(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, _ := b.leased(t)
		got, err := b.q.Get(b.ctx, b.env, w.ID)
		if err != nil || got.Secret != nil {
			t.Errorf("get answers a secret (%v)", err)
		}
		items, _, err := b.q.List(b.ctx, b.env, "", 10)
		if err != nil || len(items) != 1 || items[0].Secret != nil {
			t.Errorf("list answers %d items, or a secret (%v)", len(items), err)
		}
	})
}

func TestTokenDiesWithItsLease(t *testing.T) {
	stop := func(t *testing.T, b *bench, w *api.Work) {
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
			t.Fatal(err)
		}
	}
	lapse := func(t *testing.T, b *bench, w *api.Work) {
		b.clock.advance(time.Minute)
		b.sweep(t)
	}
	for name, c := range map[string]struct {
		waits bool
		end   func(t *testing.T, b *bench, w *api.Work)
	}{
		"stopped":                      {false, stop},
		"stopped, and offered again":   {true, stop},
		"lapsed":                       {false, lapse},
		"lapsed, and nobody claims it": {true, lapse},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				w, _ := b.leased(t)
				b.needs.set(w.Data.ID, c.waits)
				c.end(t, b, w)
				b.clock.advance(time.Minute)
				if _, err := b.q.VerifyToken(b.ctx, token(t, w)); err != nil {
					t.Errorf("within the grace: %v", err)
				}
				b.clock.advance(time.Microsecond)
				_, err := b.q.VerifyToken(b.ctx, token(t, w))
				wantStatus(t, "after the grace", err, 401)
			})
		})
	}
}

func TestTokenLivesADayAtMost(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, _ := b.leased(t)
		b.clock.advance(tokenLife - time.Second)
		if _, err := b.q.VerifyToken(b.ctx, token(t, w)); err != nil {
			t.Errorf("within the day: %v", err)
		}
		b.clock.advance(time.Second)
		_, err := b.q.VerifyToken(b.ctx, token(t, w))
		wantStatus(t, "after a day", err, 401)
	})
}

func TestForgedTokensAreRefusedAndNotRepeated(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		w, _ := b.leased(t)
		good := token(t, w)
		parts := strings.Split(strings.TrimPrefix(good, tokenPrefix), ".")
		stranger := Queue{Config: Config{SigningKey: []byte("another key that signs in this test")}, now: b.clock.now}
		forged, err := stranger.secret(&item{id: w.ID, environmentID: b.env, sessionID: w.Data.ID, claim: 1})
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string]string{
			"another key":     token(t, &api.Work{Secret: &forged}),
			"no signature":    tokenPrefix + parts[0] + "." + parts[1] + ".",
			"algorithm none":  tokenPrefix + "eyJhbGciOiJub25lIn0." + parts[1] + ".",
			"a changed claim": tokenPrefix + parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2],
			"nothing":         tokenPrefix,
			"not a token":     "hek_something",
			"an unknown item": unknownItem(t, b, w),
		} {
			_, err := b.q.VerifyToken(b.ctx, bad)
			wantStatus(t, what, err, 401)
			if err != nil && len(bad) > len(tokenPrefix) && strings.Contains(err.Error(), bad) {
				t.Errorf("%s: the error repeats the token", what)
			}
		}
	})
}

func unknownItem(t *testing.T, b *bench, w *api.Work) string {
	t.Helper()
	s, err := b.q.secret(&item{id: api.NewID(api.PrefixWork), environmentID: b.env, sessionID: w.Data.ID, claim: 1})
	if err != nil {
		t.Fatal(err)
	}
	return token(t, &api.Work{Secret: &s})
}
