// Command chaos kills servers and workers at random while sessions run, and
// then checks that nothing is lost, doubled or left behind:
//
//	go run ./test/chaos --rounds 5
//
// It owns nothing, and drives the program through its command line and its API.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"hearth/test/build"
)

// config of a run.
type config struct {
	rounds, sessions, turns, kills int
	seed                           uint64
	engine, databaseURL            string
	binary                         string // the program under test
	patience                       time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var cfg config
	flags := pflag.CommandLine
	flags.IntVar(&cfg.rounds, "rounds", 3, "how often to begin anew")
	flags.IntVar(&cfg.sessions, "sessions", 50, "how many sessions run in a round")
	flags.IntVar(&cfg.turns, "turns", 8, "how many turns of tool calls a session makes")
	flags.IntVar(&cfg.kills, "kills", 25, "how many processes are killed in a round")
	flags.Uint64Var(&cfg.seed, "seed", uint64(time.Now().UnixNano()), "draws the same kills again (not what they hit)")
	flags.StringVar(&cfg.engine, "engine", "namespace", "the workers' engine")
	flags.StringVar(&cfg.databaseURL, "database-url", "", "a Postgres database that two servers share; default SQLite and one server")
	flags.DurationVar(&cfg.patience, "patience", 5*time.Minute, "how long sessions may take to end once the killing is over")
	pflag.Parse()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg config) error {
	dir, err := os.MkdirTemp("", "hearth-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if cfg.binary, err = link(ctx, dir); err != nil {
		return err
	}
	for n := range cfg.rounds {
		seed := cfg.seed + uint64(n)
		fmt.Printf("round %d of %d: %d sessions, %d kills, engine %s (--rounds 1 --seed %d)\n", n+1, cfg.rounds, cfg.sessions, cfg.kills, cfg.engine, seed)
		r, err := newRound(cfg, seed)
		if err != nil {
			return err
		}
		if err := r.run(ctx); err != nil {
			return fmt.Errorf("round %d, seed %d: %w\nfiles and logs are kept in %s", n+1, seed, err, r.dir)
		}
		fmt.Printf("  %s\n", r.summary())
		if err := os.RemoveAll(r.dir); err != nil {
			return err
		}
	}
	return nil
}

// link links the program to test.
func link(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "hearth")
	return path, errors.Join(build.Link(ctx, "hearth/cmd/hearth", path), os.Chmod(dir, 0o755))
}
