package doctor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// engines starts a sandbox of each engine, runs a command in it and destroys it.
func engines(ctx context.Context, cfg Config, at scratch, scratchErr error) []Finding {
	all := cfg.Engines(at.dir)
	if at.dir == "" {
		var found []Finding
		for _, e := range all {
			found = append(found, skipped(e.Name(), "it is tried in the state directory, where nothing can be written: %v", scratchErr))
		}
		return found
	}
	outcomes := make([]outcome, len(all))
	var trying sync.WaitGroup
	for i, e := range all {
		trying.Go(func() { outcomes[i] = tryOut(ctx, e, filepath.Join(at.dir, "work-"+e.Name())) })
	}
	trying.Wait()
	return judge(outcomes, cfg.Wanted)
}

// outcome is what came of trying an engine.
type outcome struct {
	name string
	took time.Duration
	err  error
}

// judge tells what outcomes mean for who wants one of some engines.
func judge(outcomes []outcome, wanted []string) []Finding {
	inUse := "" // what a worker would use
	for _, name := range slices.Backward(wanted) {
		if slices.ContainsFunc(outcomes, func(o outcome) bool { return o.name == name && o.err == nil }) {
			inUse = name
		}
	}
	var found []Finding
	for _, o := range outcomes {
		f := good(o.name, "a sandbox started, a command ran in it, and it was removed, in %.2f s", o.took.Seconds())
		const fix = "mend what is said under Isolation, State and Limits, or choose another engine with --engine"
		switch {
		case o.err == nil && o.name == inUse:
			f.Message += "; sessions get this one"
		case o.err == nil:
		case inUse == "" && slices.Contains(wanted, o.name):
			f = failure(o.name, fix, "does not work: %v", o.err)
		case slices.Contains(wanted, o.name):
			f = warning(o.name, fix, "does not work, so sessions get %s: %v", inUse, o.err)
		default:
			f = warning(o.name, fix, "does not work, but was not asked for: %v", o.err)
		}
		f.Millis = o.took.Milliseconds()
		found = append(found, f)
	}
	return found
}

// tryOut does with an engine what a worker would for a session.
func tryOut(ctx context.Context, engine sandbox.Engine, workdir string) (o outcome) {
	began := time.Now()
	o.name = engine.Name()
	defer func() { o.took = time.Since(began) }()
	if o.err = engine.Check(ctx); o.err != nil {
		return o
	}
	s, err := engine.Create(ctx, sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: workdir, Labels: map[string]string{"doctor": "trial"}})
	if err != nil {
		o.err = late(ctx, err)
		return o
	}
	const command, answer = `echo "$((6 * 7)) in $PWD"`, "42 in "
	input, err := json.Marshal(map[string]string{"command": command})
	if err == nil {
		var result hand.Result
		result, err = s.Call(ctx, hand.Call{ID: "doctor", Tool: "bash", Input: input, Timeout: trial})
		if err == nil && (result.IsError || !strings.HasPrefix(result.Text, answer)) {
			err = fmt.Errorf("a command answered %.200q", result.Text)
		}
	}
	o.err = late(ctx, errors.Join(err, s.Destroy(context.WithoutCancel(ctx))))
	return o
}

// late says of an error that comes of the deadline that it does.
func late(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s: %w", trial, err)
	}
	return err
}

// docker asks whether there is a daemon. Only one engine needs one, which is tried
// when it is asked for; else that there is none is no problem.
func docker(ctx context.Context) []Finding {
	const name = "docker"
	network, address := "unix", "/var/run/docker.sock"
	if at := os.Getenv("DOCKER_HOST"); at != "" {
		var ok bool
		if network, address, ok = strings.Cut(at, "://"); !ok || network != "unix" && network != "tcp" {
			return []Finding{skipped(name, "DOCKER_HOST names neither unix:// nor tcp://")}
		}
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/version", nil)
	if err != nil {
		return []Finding{skipped(name, "%v", err)}
	}
	response, err := client.Do(request)
	if err != nil {
		return []Finding{skipped(name, "no daemon answers at %s; only the docker engine needs one", address)}
	}
	defer response.Body.Close()
	var version struct{ Version, ApiVersion string }
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&version); err != nil || version.Version == "" {
		return []Finding{skipped(name, "what answers at %s is no Docker daemon; only the docker engine needs one", address)}
	}
	return []Finding{good(name, "Docker %s (API %s) answers at %s; only the docker engine needs it", version.Version, version.ApiVersion, address)}
}
