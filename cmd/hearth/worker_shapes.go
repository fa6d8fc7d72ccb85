package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"hearth/internal/hands/worker"
)

// shapeFlags make a worker other than one that always polls and serves sessions
// in sandboxes of its own.
type shapeFlags struct {
	onWork        string
	onWorkLease   time.Duration
	webhookListen string
	webhookFile   string
	webhookPoll   time.Duration
}

const defaultWebhookPoll = time.Minute

func (s *shapeFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&s.onWork, "on-work", "", "run this script for each claimed session instead of serving it in a sandbox")
	flags.DurationVar(&s.onWorkLease, "on-work-lease", 0, "take each lease for this long before the script runs, for workers slow to start; they must carry it on from ANTHROPIC_WORK_LAST_HEARTBEAT (default: the script's worker takes the lease)")
	flags.StringVar(&s.webhookListen, "webhook-listen", "", "poll when a webhook is delivered to this address, not always")
	flags.StringVar(&s.webhookFile, "webhook-secret-file", "", "file with the secrets webhooks are signed with")
	flags.DurationVar(&s.webhookPoll, "webhook-poll", defaultWebhookPoll, "how often to poll without a webhook, in case one was lost")
}

// apply configures a worker.
func (s *shapeFlags) apply(hands *handsConfig) (err error) {
	if s.onWork == "" && s.onWorkLease != 0 {
		return usageError("--on-work-lease is for --on-work, which is not given")
	}
	if s.webhookListen == "" && (s.webhookFile != "" || s.webhookPoll != defaultWebhookPoll) {
		return usageError("--webhook-secret-file and --webhook-poll are for --webhook-listen, which is not given")
	}
	if s.onWorkLease != 0 && (s.onWorkLease < 2*time.Second || s.onWorkLease > maxLease) {
		return usageError("--on-work-lease: want between 2s and %v", maxLease)
	}
	if s.onWork != "" {
		if hands.onWork, err = s.script(); err != nil {
			return usageError("--on-work: %w", err)
		}
	}
	if s.webhookListen == "" {
		return nil
	}
	secrets := firstOf(os.Getenv("HEARTH_WEBHOOK_SECRET"), os.Getenv("ANTHROPIC_WEBHOOK_SIGNING_KEY"))
	if s.webhookFile != "" {
		if secrets, err = readSecretFile(s.webhookFile); err != nil {
			return usageError("--webhook-secret-file: %w", err)
		}
	}
	if hands.webhook, err = worker.NewWebhook(s.webhookListen, strings.Fields(secrets), s.webhookPoll); err != nil {
		return usageError("--webhook-listen: %w (see --webhook-secret-file, HEARTH_WEBHOOK_SECRET and --webhook-poll)", err)
	}
	return nil
}

// maxLease is the longest lease that servers grant.
const maxLease = 5 * time.Minute

// script finds the script, so that one that is not there is said to be missing
// before anything is claimed.
func (s *shapeFlags) script() (*worker.Script, error) {
	path, err := filepath.Abs(s.onWork)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath(path); err != nil {
		return nil, err
	}
	return &worker.Script{Path: path, Lease: s.onWorkLease, Output: os.Stderr}, nil
}
