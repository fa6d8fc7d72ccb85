package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"golang.org/x/sync/errgroup"

	"hearth/api"
	"hearth/client"
)

// apiKey is the servers' key to the API, masterKey the one they seal secrets with.
const (
	apiKey    = "hak_chaos0chaos0chaos0chaos0chaos0chaos0chaos0chaos0"
	masterKey = "Y2hhb3MtY2hhb3MtY2hhb3MtY2hhb3MtY2hhb3MtY2g="
)

// round is one platform, from its first start to what is left when it has ended.
type round struct {
	config
	dir     string
	random  *rand.Rand
	urls    []string // of the servers
	clients []*client.Client
	servers []*program
	workers []*program
	states  []string // the workers' state directories

	environmentID string
	sessions      []string

	mu      sync.Mutex
	again   int // calls that a worker was seen to leave; guarded by mu
	calls   int // guarded by mu
	dropped int // streams that broke off; guarded by mu
}

func newRound(cfg config, seed uint64) (*round, error) {
	dir, err := os.MkdirTemp("", "hearth-chaos-round-")
	if err != nil {
		return nil, err
	}
	return &round{config: cfg, dir: dir, random: rand.New(rand.NewPCG(seed, seed))}, os.Chmod(dir, 0o755)
}

// run plays the round and checks it. It leaves no process behind.
func (r *round) run(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			for _, p := range r.programs() {
				err = errors.Join(err, p.stop(time.Minute))
			}
		}
	}()
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	following, stopFollowing := context.WithCancel(ctx)
	defer stopFollowing()
	followers, err := r.follow(following)
	if err != nil {
		return err
	}
	if err := r.rampage(ctx); err != nil {
		return err
	}
	if err := r.awaitEnds(ctx); err != nil {
		return err
	}
	if err := r.checkLogs(ctx); err != nil {
		return err
	}
	if err := followers.check(ctx, r); err != nil {
		return err
	}
	stopFollowing()
	for _, p := range r.programs() {
		if err := p.stop(time.Minute); err != nil {
			return err
		}
	}
	return errors.Join(r.checkStore(ctx), r.checkLeftovers())
}

// open starts the servers and the workers.
func (r *round) open(ctx context.Context) error {
	servers := 1
	if r.databaseURL != "" {
		servers = 2
	}
	for n := range servers {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		args := []string{"serve", "--listen", address, "--data", filepath.Join(r.dir, fmt.Sprint("data", n)), "--lease-ttl", "3s", "--ping-interval", "2s"}
		if r.databaseURL != "" {
			args = append(args, "--database-url", r.databaseURL)
		}
		r.urls = append(r.urls, "http://"+address)
		r.clients = append(r.clients, client.New("http://"+address, apiKey, option.WithMaxRetries(0)))
		p := r.program(fmt.Sprint("server", n), []string{
			"HEARTH_API_KEY=" + apiKey,
			"HEARTH_SECRETS_KEY=env:MASTER_KEY", "MASTER_KEY=" + masterKey,
			"HEARTH_BLOBS=" + filepath.Join(r.dir, "blobs"),
		}, args...)
		r.servers = append(r.servers, p)
		if err := p.start(); err != nil {
			return err
		}
		if err := r.try(ctx, n, "make an environment", func(ctx context.Context, c *client.Client) error {
			if r.environmentID != "" {
				_, err := c.SDK().Beta.Environments.Get(ctx, r.environmentID, anthropic.BetaEnvironmentGetParams{})
				return err
			}
			e, err := c.SDK().Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{
				Name:   "chaos " + filepath.Base(r.dir),
				Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
			})
			if err == nil {
				r.environmentID = e.ID
			}
			return err
		}); err != nil {
			return err
		}
	}
	key, err := r.clients[0].CreateKey(ctx, r.environmentID, client.KeyParams{Name: "chaos"})
	if err != nil {
		return err
	}
	for n := range 2 {
		state := filepath.Join(r.dir, fmt.Sprint("worker", n))
		r.states = append(r.states, state)
		p := r.program(fmt.Sprint("worker", n), []string{"HEARTH_ENVIRONMENT_KEY=" + key.Key},
			"worker", "--base-url", r.urls[n%servers], "--environment-id", r.environmentID, "--engine", r.engine,
			"--state", state, "--max-sessions", "8", "--max-idle", "100ms", "--drain", "5s")
		r.workers = append(r.workers, p)
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// programs are all there are, workers first, as they should end.
func (r *round) programs() []*program { return slices.Concat(r.workers, r.servers) }

func (r *round) program(name string, env []string, args ...string) *program {
	return &program{name: name, binary: r.binary, log: filepath.Join(r.dir, name+".log"), args: args, env: env}
}

// freeAddress is one on which a server can listen, again and again.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// try does something with the nth server until it works, for that may be dead.
func (r *round) try(ctx context.Context, n int, what string, do func(ctx context.Context, c *client.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := do(ctx, r.clients[n%len(r.clients)])
		if err == nil {
			return nil
		}
		var refused *anthropic.Error
		if ctx.Err() != nil || errors.As(err, &refused) && refused.StatusCode < 500 {
			return fmt.Errorf("%s: %w", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// begin makes the sessions, each with all it is to do.
func (r *round) begin(ctx context.Context) error {
	sdk := r.clients[0].SDK()
	agent, err := sdk.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
		Name: "chaos", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "rehearsal"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401}}},
	})
	if err != nil {
		return fmt.Errorf("make an agent: %w", err)
	}
	for range r.config.sessions {
		s, err := sdk.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: r.environmentID,
			InitialEvents: []anthropic.BetaSessionNewParamsInitialEventUnion{{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
				Type: anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
				Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
					Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: r.script(),
				}}},
			}}},
		})
		if err != nil {
			return fmt.Errorf("make a session: %w", err)
		}
		r.sessions = append(r.sessions, s.ID)
	}
	return nil
}

// ran is the file in which commands note that they have run.
const ran = "ran"

// script is what a session is told to do. Each command notes its number.
func (r *round) script() string {
	var lines []string
	for n := range r.turns {
		if n > 0 && r.random.IntN(4) == 0 {
			lines = append(lines, "&")
		}
		lines = append(lines, fmt.Sprintf("$ echo %d >>%s; sleep 0.%02d; echo done %d", n, ran, r.random.IntN(30), n))
		if r.random.IntN(3) == 0 {
			lines = append(lines, fmt.Sprintf("write notes/%d.txt turn %d", n, n))
		}
	}
	return strings.Join(lines, "\n")
}

// rampage kills one process after the other, and now and then two at once.
func (r *round) rampage(ctx context.Context) error {
	all := r.programs()
	for killed := 0; killed < r.kills; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(20+r.random.IntN(500)) * time.Millisecond):
		}
		var killing errgroup.Group
		for _, i := range r.random.Perm(len(all))[:1+r.random.IntN(5)/4] {
			own := rand.New(rand.NewPCG(r.random.Uint64(), 0))
			killing.Go(func() error { return all[i].kill(own) })
			killed++
		}
		if err := killing.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// awaitEnds waits until every session has ended its turn.
func (r *round) awaitEnds(ctx context.Context) error {
	deadline := time.Now().Add(r.patience)
	for n, id := range r.sessions {
		for {
			var log []api.Event
			if err := r.try(ctx, n, "read a log", func(ctx context.Context, c *client.Client) (err error) {
				log, err = readLog(ctx, c, id, "desc", 1)
				return err
			}); err != nil {
				return err
			}
			if last := log[0]; last.Type == api.EventSessionStatusIdle && last.StopReason.Type == api.StopEndTurn {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("session %s has not ended, %v after the last kill; its last event is %s %s", id, r.patience, log[0].Type, log[0].ID)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

func (r *round) summary() string {
	kills := 0
	for _, p := range r.programs() {
		kills += p.kills
	}
	return fmt.Sprintf("ok: %d sessions made %d calls; %d kills, %d streams broken off, %d times a call was left to another worker", len(r.sessions), r.calls, kills, r.dropped, r.again)
}
