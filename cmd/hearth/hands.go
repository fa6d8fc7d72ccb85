package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/process"
)

// The engines there are.
const (
	engineNamespace = "namespace"
	engineProcess   = "process"
)

func registerEngine(flags *pflag.FlagSet, engine *string) {
	flags.StringVar(engine, "engine", engineNamespace, "what isolates a session: namespace, or process (nothing does: only for code you would run yourself)")
}

// newEngine makes the engine of that name and makes sure it works here.
func newEngine(ctx context.Context, name, stateDir string, log *slog.Logger) (sandbox.Engine, error) {
	var engine sandbox.Engine
	switch name {
	case engineNamespace:
		engine = namespace.New(namespace.Config{StateDir: stateDir, Log: log})
	case engineProcess:
		log.Warn("the process engine isolates nothing: tools run with this worker's own rights")
		engine = process.New(stateDir, log)
	default:
		return nil, usageError("--engine: %q is not one of %s", name, strings.Join([]string{engineNamespace, engineProcess}, ", "))
	}
	if err := engine.Check(ctx); err != nil {
		return nil, usageError("the %s engine does not work on this host: %w", name, err)
	}
	return engine, nil
}
