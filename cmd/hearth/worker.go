package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hearth/internal/hands/depot"
	"hearth/internal/hands/sandbox/docker"
	"hearth/internal/hands/worker"
)

const workerHelp = `Run the hands: claim sessions from an environment's queue, open a sandbox for
each, run its tool calls there and post the results back. Only outbound HTTPS is
needed.

The environment's key is read from --environment-key-file, or from
HEARTH_ENVIRONMENT_KEY or ANTHROPIC_ENVIRONMENT_KEY; --base-url and
--environment-id may come from ANTHROPIC_BASE_URL and ANTHROPIC_ENVIRONMENT_ID.

SIGTERM drains: no more claims, running calls finish within --drain, what is
left is handed back. A second signal ends the worker at once; whatever it leaves
behind is cleared away when a worker next starts on the same --state.

With --on-work the worker opens no sandboxes. It claims sessions and runs a
script for each, up to --max-sessions at once, with the item as JSON on standard
input and in its environment

  ANTHROPIC_BASE_URL, ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_SESSION_ID,
  ANTHROPIC_WORK_ID, ANTHROPIC_WORK_SECRET
  ANTHROPIC_WORK_LAST_HEARTBEAT        with --on-work-lease only

and never the environment's key. The script starts a worker for the session, as
hearth worker run is one, wherever it likes; that worker takes the lease, keeps
it, and stops the item. Then

  - a script that exits with 0 has done its part. If its worker goes on elsewhere
    (docker run --detach), the item is left to it and watched until it is over;
    it takes one of --max-sessions until then. If no worker takes the lease in
    time, the server offers the session again;
  - a script that exits otherwise has failed: the item is stopped, and the server
    offers the session again if it still waits for something;
  - a script whose item the server has taken back is ended;
  - SIGTERM goes to the scripts' process groups; those that have not ended within
    --drain are killed, and their items stopped. What a script has left running
    elsewhere goes on.

With --webhook-listen the worker does not poll all the time, but when a webhook
has been delivered to ADDRESS/webhook that says a session runs, when it has
finished with a session, and every --webhook-poll in case a webhook was lost. It
then claims what there is. Deliveries are signed as Standard Webhooks are; the
secret (whsec_…; several, one on each line, while they are being replaced) is
read from --webhook-secret-file, or from HEARTH_WEBHOOK_SECRET or
ANTHROPIC_WEBHOOK_SIGNING_KEY.`

const workerRunHelp = `Serve one session that somebody else has claimed, and exit. This is the command
for a container that a dispatcher starts for each item. It reads

  ANTHROPIC_WORK_ID, ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_SESSION_ID   which item
  ANTHROPIC_WORK_SECRET                the item's secret, as polled
  ANTHROPIC_ENVIRONMENT_KEY            needed when there is no secret
  ANTHROPIC_WORK_LAST_HEARTBEAT        to carry on a lease that was begun
  ANTHROPIC_BASE_URL                   the server

The secret is all the credential it needs, and the server's address all the
network. Tools run in a sandbox, or with --engine process in the container
itself; --workdir is the directory they find their files in, a volume for
instance. SIGTERM drains as it does for hearth worker.

Exit codes: 0 when the session needs no hands any more, has been idle for
--max-idle, was drained, or was stopped by the server; 1 when it could not be
served, or its lease was lost to somebody else or refused; 2 when a variable or a
flag is wrong.

Whoever claimed the item must not stop it before this command has exited.`

func newWorker() *cobra.Command {
	var flags workerFlags
	var shape shapeFlags
	cmd := &cobra.Command{
		Use:     "worker",
		Short:   "Run the hands",
		Long:    workerHelp,
		GroupID: "daemon",
		Example: `  hearth worker --base-url https://brain.example --environment-id env_… --environment-key-file worker.key
  hearth worker --environment-id env_… --on-work ./on-work.sh --max-sessions 20
  hearth worker --environment-id env_… --webhook-listen :8080 --webhook-secret-file webhook.secret`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := shape.apply(&flags.handsConfig); err != nil {
				return err
			}
			w, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			defer w.Close()
			return w.Run(cmd.Context())
		},
	}
	flags.register(cmd.Flags())
	shape.register(cmd.Flags())
	cmd.AddCommand(newWorkerRun(), newWorkerParkKey())
	return cmd
}

func newWorkerParkKey() *cobra.Command {
	return &cobra.Command{
		Use:     "park-key",
		Short:   "Make a key for workers that share parked sessions",
		Long:    "Make a key for --park-key-file, by which workers that share a --park-store encrypt what they put there. All of an environment's workers need the same.",
		Example: "  (umask 077; hearth worker park-key >park.key)",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := depot.NewKey()
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
			}
			return err
		},
	}
}

func newWorkerRun() *cobra.Command {
	var flags workerFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve one claimed session, then exit",
		Long:  workerRunHelp,
		Example: `  ANTHROPIC_WORK_ID=work_… ANTHROPIC_ENVIRONMENT_ID=env_… ANTHROPIC_SESSION_ID=sesn_… \
    ANTHROPIC_WORK_SECRET=… ANTHROPIC_BASE_URL=https://brain.example hearth worker run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			item, err := worker.ItemFromEnvironment(os.Getenv)
			if err != nil {
				return usageError("%w", err)
			}
			flags.environmentID = item.EnvironmentID
			flags.keyOptional, flags.untried = true, true
			if flags.workdir != "" {
				if flags.workdir, err = findWorkdir(flags.workdir); err != nil {
					return usageError("--workdir: %w", err)
				}
			}
			w, err := flags.open(cmd.Context())
			if err != nil {
				return err
			}
			defer w.Close()
			err = w.RunOne(cmd.Context(), item)
			if errors.Is(err, worker.ErrNoCredential) {
				return usageError("%w", err)
			}
			return err
		},
	}
	flags.register(cmd.Flags())
	cmd.Flags().StringVar(&flags.workdir, "workdir", "", "the session's working directory (default one below --state)")
	return cmd
}

// findWorkdir makes the directory where it is missing, and returns it without links
// on the way: it is to be given to who is in the sandbox, not a link to it.
func findWorkdir(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// workerFlags configure a worker.
type workerFlags struct {
	logs          logFlags
	baseURL       string
	environmentID string
	keyFile       string
	keyOptional   bool
	handsConfig
}

// handsConfig is what a worker on the command line and one built into the
// server have in common.
type handsConfig struct {
	engine      string
	docker      docker.Config
	image       imageFlags
	stateDir    string
	maxSessions int
	maxIdle     time.Duration
	drain       time.Duration
	pool        int
	callTimeout time.Duration
	parkAfter   time.Duration
	parkTTL     time.Duration
	parkQuota   byteSize
	parkStore   string
	parkKeyFile string
	limitFlags
	workdir string
	untried bool // the engine has been tried out, or is about to be by the only session
	onWork  *worker.Script
	webhook *worker.Webhook
	log     *slog.Logger
}

func (h *handsConfig) register(flags *pflag.FlagSet) {
	registerEngine(flags, &h.engine)
	registerDocker(flags, &h.docker)
	h.image.register(flags)
	flags.IntVar(&h.maxSessions, "max-sessions", 8, "how many sessions to serve at once")
	flags.IntVar(&h.pool, "pool", 2, "how many sandboxes to keep started ahead of their sessions; the process engine keeps none")
	flags.DurationVar(&h.maxIdle, "max-idle", time.Minute, "how long to stay with a session whose turn has ended, if no other waits for its place")
	flags.DurationVar(&h.callTimeout, "call-timeout", 2*time.Minute, "how long one tool call may take")
	h.limitFlags.register(flags)
	h.parkQuota = 10 << 30
	flags.DurationVar(&h.parkAfter, "park-after", time.Minute, "how long a session must have been idle for its sandbox to be put on disk, shell and background jobs included, until the next message (gvisor only, and at --max-idle at the latest); 0 to destroy it then instead")
	flags.DurationVar(&h.parkTTL, "park-ttl", 24*time.Hour, "how long a sandbox is kept on disk")
	flags.Var(&h.parkQuota, "park-quota", "how much all sandboxes on disk may take before the oldest go")
	flags.StringVar(&h.parkStore, "park-store", "", "where to put parked sessions, their files included, for the environment's other workers to go on with: a directory they share, or s3://bucket?region=… (default nowhere: a session stays with its worker)")
	flags.StringVar(&h.parkKeyFile, "park-key-file", "", "file with the key those workers share, that encrypts what is put there (default HEARTH_PARK_KEY); hearth worker park-key makes one")
	flags.DurationVar(&h.drain, "drain", 30*time.Second, "how long running calls may take to finish after SIGTERM")
}

// defaultHands is what is configured where no flag is given.
func defaultHands() (h handsConfig) {
	h.register(pflag.NewFlagSet("", pflag.ContinueOnError))
	return h
}

func (f *workerFlags) register(flags *pflag.FlagSet) {
	f.logs.register(flags, "info")
	flags.StringVar(&f.baseURL, "base-url", "", "the server's address (default "+defaultBaseURL+")")
	flags.StringVar(&f.environmentID, "environment-id", "", "the environment whose queue to serve")
	flags.StringVar(&f.keyFile, "environment-key-file", "", "file with the environment's key")
	flags.StringVar(&f.stateDir, "state", filepath.Join(defaultDataDir(), "worker"), "the directory for sessions' files and sandboxes")
	f.handsConfig.register(flags)
}

func (f *workerFlags) open(ctx context.Context) (openWorker, error) {
	f.log = f.logs.logger()
	key := firstOf(os.Getenv("HEARTH_ENVIRONMENT_KEY"), os.Getenv("ANTHROPIC_ENVIRONMENT_KEY"))
	if f.keyFile != "" {
		var err error
		if key, err = readSecretFile(f.keyFile); err != nil {
			return openWorker{}, usageError("--environment-key-file: %w", err)
		}
	}
	environmentID := firstOf(f.environmentID, os.Getenv("ANTHROPIC_ENVIRONMENT_ID"))
	if environmentID == "" {
		return openWorker{}, usageError("no environment: set --environment-id")
	}
	if key == "" && !f.keyOptional {
		return openWorker{}, usageError("no environment key: set --environment-key-file or HEARTH_ENVIRONMENT_KEY (hearth keys create makes one)")
	}
	address := firstOf(f.baseURL, os.Getenv("ANTHROPIC_BASE_URL"), defaultBaseURL)
	if u, err := url.Parse(address); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return openWorker{}, usageError("--base-url: %.200q is not an address that begins with https:// or http://", address)
	}
	return f.handsConfig.open(ctx, target{baseURL: address, environmentID: environmentID, key: key})
}
