// Package hand is the six tools, bash, read, write, edit, glob and grep, as
// they run inside a sandbox, and the framed stream by which the worker outside
// calls them. The same code serves every engine, so tools behave the same
// everywhere. It owns nothing but the session's shell and may call no package
// of ours.
package hand

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"
)

// Config of a hand.
type Config struct {
	// Workdir is the working directory: where bash begins and where the file
	// tools are confined to.
	Workdir string
	// Beside is another directory the file tools may work in; "" for none. It need
	// not exist.
	Beside string
	// Env is the whole environment of the session's shell.
	Env []string
	// Processes bounds how many processes the shell and what it starts may be;
	// 0 for no bound but that which this process is under too, if any.
	Processes int
	// Start starts the shell. Default (*exec.Cmd).Start.
	Start func(*exec.Cmd) error
	// Init says that orphans are left to this process, the first of its pid
	// namespace for instance, and that it so has to reap them.
	Init bool
}

// tool runs one call. What it returns is shown to the model; an error is its
// failure, in words for the model.
type tool func(ctx context.Context, input json.RawMessage) (string, error)

// Shrug makes this process take no notice of signals, which reach it from
// within its own sandbox too. What it starts meets them as usual: they are not
// ignored, which would be inherited, but caught.
func Shrug() { signal.Notify(make(chan os.Signal, 1), grave...) }

// grave are the signals that would end or stop a program in Go. The others do
// nothing to it, and to catch each costs two switches of threads.
var grave = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE,
	syscall.SIGSEGV, syscall.SIGTERM, syscall.SIGSTKFLT, syscall.SIGSYS, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
}

// Serve answers calls read from r on w until r ends or ctx does. It then stops
// whatever the calls have started.
func Serve(ctx context.Context, r io.Reader, w io.Writer, cfg Config) error {
	files, err := openFiles(cfg)
	if err != nil {
		return err
	}
	defer files.close()
	if cfg.Start == nil {
		cfg.Start = (*exec.Cmd).Start
	}
	if cfg.Processes == 0 {
		reserveThreads()
	}
	shell := &shell{start: cfg.Start, workdir: cfg.Workdir, env: cleanEnv(cfg.Env), spill: files.spillFile, processes: cfg.Processes}
	if cfg.Init {
		shell.orphans = newOrphans(ctx)
	}
	shells := newShells(shell)
	defer shells.close()
	go shell.warm()
	s := server{
		out:   frameWriter{w: w},
		spill: files.spill,
		tools: map[string]tool{
			"read": files.read, "write": files.write, "edit": files.edit, "glob": files.glob, "grep": files.grep,
		},
		shells:  shells,
		cancels: map[string]context.CancelFunc{},
	}
	ctx, stop := context.WithCancel(ctx)
	terminals := terminals{shell: shell, out: &s.out, open: map[string]*terminal{}}
	defer s.calls.Wait()
	defer terminals.work.Wait()
	defer stop()
	if err := s.out.write(frame{Kind: frameReady}); err != nil {
		return err
	}
	for {
		f, err := readFrame(r, maxFrame)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case f.Kind == frameHello:
			terminals.closeAll() // whoever sat at them is gone
			if err := s.out.write(frame{Kind: frameReady}); err != nil {
				return err
			}
		case f.Kind == frameCall && f.Call != nil:
			s.start(ctx, *f.Call)
		case f.Kind == frameCancel:
			s.cancel(f.ID)
			terminals.cancel(f.ID)
		case f.Kind == frameTerminal && f.Terminal != nil:
			terminals.begin(ctx, *f.Terminal)
		case f.Kind == frameScreen && f.Screen != nil:
			terminals.take(f.ID, *f.Screen)
		}
	}
}

// scrubbed are prefixes of variables that never reach a tool.
var scrubbed = []string{"ANTHROPIC_", "HEARTH_"}

func cleanEnv(env []string) []string {
	clean := make([]string, 0, len(env))
	for _, v := range env {
		secret := false
		for _, prefix := range scrubbed {
			secret = secret || strings.HasPrefix(v, prefix)
		}
		if !secret {
			clean = append(clean, v)
		}
	}
	return clean
}

type server struct {
	out    frameWriter
	tools  map[string]tool // but for bash
	shells *shells
	spill  func(text string) (path string, err error)
	calls  sync.WaitGroup

	mu      sync.Mutex
	cancels map[string]context.CancelFunc // of calls in flight, by id; guarded by mu
}

func (s *server) start(ctx context.Context, c Call) {
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	s.mu.Lock()
	s.cancels[c.ID] = cancel
	s.mu.Unlock()
	s.calls.Go(func() {
		result := s.run(ctx, c)
		s.cancel(c.ID) // before the answer, after which the id may be used again
		// With the worker gone nobody is left to tell.
		_ = s.out.write(frame{Kind: frameResult, Result: &result})
	})
}

func (s *server) cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel, ok := s.cancels[id]; ok {
		cancel()
		delete(s.cancels, id)
	}
}

func (s *server) run(ctx context.Context, c Call) Result {
	run, ok := s.tools[c.Tool]
	if c.Tool == "bash" {
		run, ok = s.shells.get(c.Shell).bashTool, true
	}
	if !ok {
		return Result{ID: c.ID, IsError: true, Text: fmt.Sprintf("there is no tool called %q", c.Tool)}
	}
	text, err := run(ctx, c.Input)
	if err != nil {
		return Result{ID: c.ID, IsError: true, Text: s.present(err.Error())}
	}
	return Result{ID: c.ID, Text: s.present(text)}
}

// maxShown is how many characters of a result the model is shown. What is
// longer is kept in a file.
const maxShown = 100_000

// present makes a text fit to be shown: valid, not empty, not too long.
func (s *server) present(text string) string {
	text = printable(text)
	if text == "" {
		return "(no output)"
	}
	if len(text) <= maxShown || utf8.RuneCountInString(text) <= maxShown {
		return text
	}
	return overflow(text, maxShown, s.spill)
}

// printable replaces what is not valid UTF-8, and NULs, which not everything
// on the way can carry.
func printable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// overflow keeps the whole of a text in a file and returns its beginning, of at
// most limit bytes, with word of where the rest is.
func overflow(text string, limit int, spill func(string) (string, error)) string {
	cut := strings.ToValidUTF8(text[:limit], "")
	path, err := spill(text)
	if err != nil {
		return cut + "\n[output truncated]"
	}
	return fmt.Sprintf("%s\n[output truncated: the whole of it, %d bytes, is in %s]", cut, len(text), path)
}

// decode reads a tool's input.
func decode(tool string, input json.RawMessage, to any) error {
	if err := json.Unmarshal(input, to); err != nil {
		return fmt.Errorf("%s: the input is not as its schema says: %v", tool, err)
	}
	return nil
}
