package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"gocloud.dev/blob"
	"golang.org/x/sync/errgroup"

	blobstore "hearth/internal/blob"
	"hearth/internal/brain/agent"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/deployment"
	"hearth/internal/brain/dream"
	"hearth/internal/brain/environment"
	"hearth/internal/brain/file"
	"hearth/internal/brain/gateway"
	"hearth/internal/brain/loop"
	"hearth/internal/brain/memory"
	"hearth/internal/brain/model"
	"hearth/internal/brain/model/anthropic"
	"hearth/internal/brain/model/rehearsal"
	"hearth/internal/brain/outbound"
	"hearth/internal/brain/outbox"
	"hearth/internal/brain/price"
	"hearth/internal/brain/profile"
	"hearth/internal/brain/queue"
	"hearth/internal/brain/seal"
	"hearth/internal/brain/server"
	"hearth/internal/brain/session"
	"hearth/internal/brain/skill"
	"hearth/internal/brain/tunnel"
	"hearth/internal/brain/vault"
	"hearth/internal/brain/webhook"
	"hearth/internal/db"
	"hearth/internal/secret"
)

// brainConfig is how a brain is put together.
type brainConfig struct {
	listen       string
	data         string
	databaseURL  string
	blobs        string
	secretsKey   string
	outbound     []string // beside public addresses
	tunnelDomain string
	model        string
	modelBaseURL string
	prices       string
	leaseTTL     time.Duration
	pingInterval time.Duration
	concurrency  int
	signOn       signOnFlags
	limits       server.Limits
	log          *slog.Logger
}

func (b *brainConfig) register(flags *pflag.FlagSet) {
	flags.StringVar(&b.listen, "listen", "127.0.0.1:8400", "the address to serve the API on")
	flags.StringVar(&b.data, "data", defaultDataDir(), "the directory for everything that is kept")
	flags.StringVar(&b.databaseURL, "database-url", "", "postgres://… for more than one server (default: SQLite in --data); put one with a password into HEARTH_DATABASE_URL")
	flags.StringVar(&b.blobs, "blobs", "", "where the bodies of files and skills are kept: a directory, or s3://bucket?region=… for more than one server (default: blobs in --data)")
	flags.StringVar(&b.secretsKey, "secrets-key", "", "the key that encrypts secrets at rest: a file or env:NAME with 32 bytes in base64, or a key manager's awskms://…, gcpkms://…, azurekeyvault://… or hashivault://… (default: secrets-key in --data, made at the first start)")
	flags.StringSliceVar(&b.outbound, "allow-private-outbound", nil, "addresses that are not public and may be called all the same, for MCP servers, token endpoints and webhooks: a host, an address or a range such as 10.1.0.0/16")
	flags.StringVar(&b.tunnelDomain, "tunnel-domain", tunnel.DefaultDomain, "the domain that tunnels are named below")
	oneOf(flags, &b.model, "model", "", "what thinks: rehearsal (no model, follows instructions in the message) or anthropic (default: anthropic if HEARTH_MODEL_API_KEY is set, else rehearsal)", modelRehearsal, modelAnthropic)
	flags.StringVar(&b.modelBaseURL, "model-base-url", "", "the model's address, for a gateway (default: the provider's own)")
	flags.StringVar(&b.prices, "prices", "", "a file with the list prices of models, which replaces the built-in table (hearth prices prints that one)")
	flags.DurationVar(&b.leaseTTL, "lease-ttl", time.Minute, "how long a worker's heartbeat keeps its lease")
	flags.DurationVar(&b.pingInterval, "ping-interval", 15*time.Second, "how often an event stream is kept alive")
	flags.IntVar(&b.concurrency, "concurrency", 64, "how many sessions may think at once on this server")
	flags.IntVar(&b.limits.Create, "rate-limit-create", 0, "how many requests a minute that change something each API key and person may make of this server (0: any number; the hosted service allows 300)")
	flags.IntVar(&b.limits.Read, "rate-limit-read", 0, "how many requests a minute that read each API key and person may make of this server (0: any number; the hosted service allows 1200)")
	b.signOn.register(flags)
}

// check refuses settings that cannot be meant.
func (b *brainConfig) check() error {
	err := checkBounds([]bound{
		{"concurrency", b.concurrency > 0, "at least 1"},
		{"rate-limit-create", b.limits.Create >= 0, "0 or more"},
		{"rate-limit-read", b.limits.Read >= 0, "0 or more"},
		{"lease-ttl", b.leaseTTL >= time.Second, "at least 1s"},
		{"ping-interval", b.pingInterval > 0, "more than 0"},
	})
	if err != nil {
		return err
	}
	if _, err := net.ResolveTCPAddr("tcp", b.listen); err != nil {
		return usageError("--listen: %w; want an address and a port, such as 0.0.0.0:8400", err)
	}
	scheme, _, _ := strings.Cut(b.databaseURL, "://")
	if b.databaseURL != "" && !slices.Contains([]string{"postgres", "postgresql", "sqlite"}, scheme) {
		return usageError("--database-url: want one that begins with postgres://") // unsaid what it is: it may hold a password
	}
	_, err = b.table()
	return err
}

// brain is the control plane of one server.
type brain struct {
	cfg      brainConfig
	lock     *os.File // held on the data directory
	db       *db.DB
	keys     *auth.Keys
	signOn   *auth.SignOn // nil where nobody signs on
	queue    *queue.Queue
	envs     *environment.Store
	agents   *agent.Store
	sessions *session.Store
	files    *file.Store
	memories *memory.Store
	skills   *skill.Store
	vaults   *vault.Store
	sealer   *seal.Sealer
	webhooks *webhook.Store
	deploys  *deployment.Store
	tunnels  *tunnel.Store
	profiles *profile.Store
	dreams   *dream.Store
	blobs    *blob.Bucket
	loop     *loop.Loop
	gateway  *gateway.Gateway // nil without a provider that speaks the Messages API
	// modelName says what thinks.
	modelName string
}

// openBrain opens the database and assembles the brain; close ends it.
func openBrain(ctx context.Context, cfg brainConfig) (*brain, error) {
	signOn, err := cfg.signOn.open(cfg)
	if err != nil {
		return nil, err
	}
	if err := tunnel.CheckDomain(cmp.Or(cfg.tunnelDomain, tunnel.DefaultDomain)); err != nil {
		return nil, usageError("--tunnel-domain: %w", err)
	}
	if err := os.MkdirAll(cfg.data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockData(cfg.data)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{devFile, serveFile} {
		_ = os.Remove(filepath.Join(cfg.data, name)) // left by one that was killed, or absent
	}
	alone := cfg.databaseURL == "" // the lock is on the database's directory
	if alone {
		cfg.databaseURL = "sqlite://" + filepath.Join(cfg.data, "hearth.db")
	}
	database, err := db.Open(ctx, db.Config{URL: cfg.databaseURL, Log: cfg.log})
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	b := &brain{cfg: cfg, lock: lock, db: database, signOn: signOn}
	if err := b.assemble(ctx, alone); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *brain) assemble(ctx context.Context, alone bool) (err error) {
	adapter, err := b.adapter()
	if err != nil {
		return err
	}
	signingKey, err := secret.SigningKey(ctx, b.db)
	if err != nil {
		return err
	}
	prices, err := b.cfg.table()
	if err != nil {
		return err
	}
	if b.sessions, err = session.New(ctx, session.Config{DB: b.db, Alone: alone, Prices: prices}); err != nil {
		return err
	}
	b.queue, err = queue.New(ctx, queue.Config{
		DB: b.db, LeaseTTL: b.cfg.leaseTTL, SigningKey: signingKey,
		Sessions: b.sessions, Log: b.cfg.log,
	})
	if err != nil {
		return err
	}
	b.sessions.UseQueue(b.queue)
	if b.agents, err = agent.New(ctx, b.db); err != nil {
		return err
	}
	if b.envs, err = environment.New(ctx, b.db); err != nil {
		return err
	}
	if b.keys, err = auth.New(ctx, auth.Config{DB: b.db, Environments: b.envs, Queue: b.queue, SignOn: b.signOn, Log: b.cfg.log}); err != nil {
		return err
	}
	if err := b.assembleStores(ctx); err != nil {
		return err
	}
	b.modelName = adapter.Name()
	b.loop = loop.New(loop.Config{Sessions: b.sessions, Adapter: adapter, Skills: b.skills.Describe, OpenFile: b.files.Open, Log: b.cfg.log, Concurrency: b.cfg.concurrency})
	return nil
}

// table is what models cost: what the operator says, or what is built in.
func (b brainConfig) table() (*price.Table, error) {
	if b.prices == "" {
		return price.Default(), nil
	}
	table, err := price.Load(b.prices)
	if err != nil {
		return nil, usageError("--prices: %w", err)
	}
	return table, nil
}

// assembleStores opens what keeps bodies and secrets.
func (b *brain) assembleStores(ctx context.Context) (err error) {
	b.blobs, err = blobstore.Open(ctx, cmp.Or(b.cfg.blobs, filepath.Join(b.cfg.data, "blobs")))
	if err != nil && b.cfg.blobs != "" {
		return usageError("--blobs: %w", err)
	}
	if err != nil {
		return err
	}
	b.files, err = file.New(ctx, file.Config{DB: b.db, Blobs: b.blobs, SessionExists: b.sessions.Exists, Log: b.cfg.log})
	if err != nil {
		return err
	}
	b.sessions.UseFiles(b.files)
	b.memories, err = memory.New(ctx, memory.Config{DB: b.db, Log: b.cfg.log})
	if err != nil {
		return err
	}
	b.skills, err = skill.New(ctx, skill.Config{DB: b.db, Blobs: b.blobs, Log: b.cfg.log})
	if err != nil {
		return err
	}
	b.agents.UseSkills(b.skills)
	address := b.cfg.secretsKey
	if address == "" {
		address = filepath.Join(b.cfg.data, "secrets-key")
		if err := seal.EnsureMaster(address); err != nil {
			return err
		}
	}
	master, err := seal.OpenMaster(ctx, address)
	if err != nil && b.cfg.secretsKey != "" {
		return usageError("--secrets-key: %w", err)
	}
	if err != nil {
		return err
	}
	if b.sealer, err = seal.New(ctx, b.db, master); err != nil {
		return err
	}
	allowed, err := outbound.ParseAllowed(b.cfg.outbound)
	if err != nil {
		return usageError("--allow-private-outbound: %w", err)
	}
	if b.vaults, err = vault.New(ctx, vault.Config{DB: b.db, Sealer: b.sealer, Client: allowed.Client(), Log: b.cfg.log}); err != nil {
		return err
	}
	if b.tunnels, err = tunnel.New(ctx, tunnel.Config{DB: b.db, Sealer: b.sealer, Domain: b.cfg.tunnelDomain}); err != nil {
		return err
	}
	if b.profiles, err = profile.New(ctx, b.db); err != nil {
		return err
	}
	if b.dreams, err = dream.New(ctx, dream.Config{DB: b.db, Memories: b.memories, Sessions: b.sessions}); err != nil {
		return err
	}
	return b.assembleOutbox(ctx, allowed)
}

// assembleOutbox connects what happens with whom it is told.
func (b *brain) assembleOutbox(ctx context.Context, allowed outbound.Allowed) (err error) {
	b.webhooks, err = webhook.New(ctx, webhook.Config{
		DB: b.db, Sealer: b.sealer, OrganizationID: auth.DefaultOrganization, Client: allowed.Client(), AllowHTTP: len(b.cfg.outbound) > 0, Log: b.cfg.log,
	})
	if err != nil {
		return err
	}
	b.deploys, err = deployment.New(ctx, deployment.Config{DB: b.db, Sessions: b.services().Launcher(), Sealer: b.sealer, Log: b.cfg.log})
	if err != nil {
		return err
	}
	for _, tells := range []interface{ UseOutbox(outbox.Outbox) }{b.sessions, b.agents, b.envs, b.vaults, b.memories, b.deploys} {
		tells.UseOutbox(b.webhooks)
	}
	b.agents.UseOutbox(b.deploys)
	return nil
}

// services is what the server serves.
func (b *brain) services() server.Config {
	return server.Config{
		DB: b.db, Keys: b.keys, Agents: b.agents, Environments: b.envs, Sessions: b.sessions, Queue: b.queue, Files: b.files, Skills: b.skills, Vaults: b.vaults, Sealer: b.sealer, Gateway: b.gateway,
		Tunnels: b.tunnels, Profiles: b.profiles, Dreams: b.dreams, Memories: b.memories, Webhooks: b.webhooks, Deployments: b.deploys,
		Limits: b.cfg.limits, Log: b.cfg.log, PingInterval: b.cfg.pingInterval,
	}
}

// operatorKey is the API key the operator gave, or one made at the first start
// and kept in the data directory.
func (b *brain) operatorKey(ctx context.Context) (string, error) {
	key := os.Getenv("HEARTH_API_KEY")
	path := filepath.Join(b.cfg.data, "api-key")
	if key == "" {
		kept, err := readSecretFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			kept = secret.New(secret.PrefixAPIKey)
			err = writePrivate(path, kept)
			b.cfg.log.Info("made an API key", "file", path)
		}
		if err != nil {
			return "", fmt.Errorf("the server's API key: %w", err)
		}
		key = kept
	}
	if err := b.keys.EnsureAPIKey(ctx, "operator", key); err != nil {
		return "", fmt.Errorf("the server's API key, from HEARTH_API_KEY or %s: %w", path, err)
	}
	return key, nil
}

// adapter picks what thinks.
func (b *brain) adapter() (model.Adapter, error) {
	key := os.Getenv(modelKey)
	switch {
	case b.cfg.thinksWith() == modelRehearsal:
		return rehearsal.New(), nil
	case key == "":
		return nil, usageError("--model anthropic needs a key in HEARTH_MODEL_API_KEY")
	}
	var err error
	if b.gateway, err = gateway.New(gateway.Config{BaseURL: b.cfg.modelBaseURL, APIKey: key}); err != nil {
		return nil, usageError("--model-base-url: %w", err)
	}
	return anthropic.New(anthropic.Config{BaseURL: b.cfg.modelBaseURL, APIKey: key}), nil
}

// What can think, and the variable with its key.
const (
	modelRehearsal = "rehearsal"
	modelAnthropic = "anthropic"
	modelKey       = "HEARTH_MODEL_API_KEY"
)

// thinksWith is the model chosen, or what the presence of a key suggests.
func (b brainConfig) thinksWith() string {
	switch {
	case b.model != "":
		return b.model
	case os.Getenv(modelKey) != "":
		return modelAnthropic
	}
	return modelRehearsal
}

// run serves until ctx ends, then finishes what is in flight.
func (b *brain) run(ctx context.Context, listener net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	cfg := b.services()
	cfg.Stopping = ctx
	handler := server.New(cfg)
	if b.signOn != nil {
		go b.signOn.Greet() // which ends by itself
	}
	group.Go(func() error { return b.queue.Run(ctx) })
	group.Go(func() error { return b.files.Run(ctx) })
	group.Go(func() error { return b.memories.Run(ctx) })
	group.Go(func() error { return b.webhooks.Run(ctx) })
	group.Go(func() error { return b.deploys.Run(ctx) })
	group.Go(func() error { return b.skills.Run(ctx) })
	group.Go(func() error { return b.loop.Run(ctx) })
	group.Go(func() error { return server.Serve(ctx, listener, handler, b.cfg.log) })
	return group.Wait()
}

func (b *brain) close() error {
	var blobs error
	if b.blobs != nil {
		blobs = b.blobs.Close()
	}
	return errors.Join(blobs, b.db.Close(), b.lock.Close())
}

// baseURL is the address at which this host reaches a listener.
func baseURL(listener net.Listener) string {
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return "http://" + listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
