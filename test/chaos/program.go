package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// program is a process that is killed and started again.
type program struct {
	name, binary, log string
	args, env         []string

	mu      sync.Mutex
	cmd     *exec.Cmd     // guarded by mu
	ended   chan struct{} // closed when cmd has; guarded by mu
	stopped bool          // it has been told to end, for good; guarded by mu
	kills   int           // guarded by mu
}

func (p *program) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.binary, p.args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir()}, p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed more often than not
		close(ended)
	}()
	p.cmd, p.ended = cmd, ended
	return nil
}

// kill kills the program as it is, and starts it again after a while.
func (p *program) kill(random *rand.Rand) error {
	p.mu.Lock()
	_ = p.cmd.Process.Kill() // that it has ended already is found out below
	ended := p.ended
	p.kills++
	p.mu.Unlock()
	<-ended
	time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
	return p.start()
}

// stop ends the program as an operator would.
func (p *program) stop(patience time.Duration) error {
	p.mu.Lock()
	p.stopped = true
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // that it has ended already is found out below
	select {
	case <-ended:
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		return fmt.Errorf("%s did not end within %v", p.name, patience)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s, told to end, exited with %d", p.name, code)
	}
	return nil
}
