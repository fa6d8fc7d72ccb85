package hand

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shell is the session's bash: one process whose directory, variables and jobs
// last from call to call.
type shell struct {
	workdir string
	env     []string
	spill   func() (*os.File, string, error) // a new file for a long output, and its path
	start   func(*exec.Cmd) error
	orphans *orphans // nil unless this process is an init
	// processes bounds what the shell may start; 0 for no bound. It is the
	// shell's own limit, not this process's, which shares its user and must
	// never run out of threads.
	processes int

	turn sync.Mutex // one command at a time
	bash *bash      // guarded by turn; nil before the first command and after the shell has ended
}

// maxOutput is how many bytes of an output are shown; with a word about the
// rest that stays below maxShown characters. Of a command it is the end.
const maxOutput = 99_000

// maxKept is how many bytes of a command's output are kept for its file.
const maxKept = 64 << 20

type bashInput struct {
	Command   string `json:"command"`
	Restart   bool   `json:"restart"`
	TimeoutMS int64  `json:"timeout_ms"`
}

// bashTool is the bash tool.
func (s *shell) bashTool(ctx context.Context, input json.RawMessage) (string, error) {
	var in bashInput
	if err := decode("bash", input, &in); err != nil {
		return "", err
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	if in.Restart {
		s.stop()
		if in.Command == "" {
			return "bash session restarted", nil
		}
	}
	if strings.TrimSpace(in.Command) == "" {
		return "", errors.New("bash: command is required")
	}
	if in.TimeoutMS > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(in.TimeoutMS)*time.Millisecond)
		defer cancel()
	}
	switch err := ctx.Err(); {
	case errors.Is(err, context.DeadlineExceeded):
		return "", errors.New("[timed out before it began]")
	case err != nil:
		return "", errors.New("[cancelled before it began]")
	}
	if err := s.ready(); err != nil {
		return "", fmt.Errorf("bash: %w", err)
	}
	return s.execute(ctx, in.Command)
}

// ready starts bash unless it runs. The caller holds turn.
func (s *shell) ready() (err error) {
	if s.bash == nil {
		s.bash, err = s.startBash()
	}
	return err
}

// warm starts bash before anybody asks for it.
func (s *shell) warm() {
	s.turn.Lock()
	defer s.turn.Unlock()
	_ = s.ready() // whoever asks for it will meet the error
}

func (s *shell) execute(ctx context.Context, command string) (string, error) {
	status, err := s.bash.execute(ctx, command)
	out := s.shown(s.bash.output.take())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.stop()
		return "", errors.New(joinLines(out, "[timed out]\nsession restarted after timeout"))
	case errors.Is(err, context.Canceled):
		s.stop()
		return "", errors.New(joinLines(out, "[cancelled]\nsession restarted"))
	case err != nil: // bash itself ended
		s.stop()
		note := fmt.Sprintf("exit code: %d\n[bash has ended; the next command begins a new session]", status)
		if status == 0 {
			return joinLines(out, note), nil
		}
		return "", errors.New(joinLines(out, note))
	case status != 0:
		return "", errors.New(joinLines(out, fmt.Sprintf("exit code: %d", status)))
	}
	return out, nil
}

func joinLines(text, more string) string {
	if text == "" {
		return more
	}
	return strings.TrimSuffix(text, "\n") + "\n" + more
}

// shown is the end of a command's output, with word of where all of it is.
func (s *shell) shown(o captured) string {
	text := printable(ansi.ReplaceAllString(o.tail(), ""))
	if o.total <= maxOutput {
		return text
	}
	switch o.kept {
	case 0:
		return "[output truncated]\n" + text
	case o.total:
		return fmt.Sprintf("[output truncated]\n[all %d bytes are in %s]\n%s", o.total, o.path, text)
	}
	return fmt.Sprintf("[output truncated]\n[the first %d of %d bytes are in %s]\n%s", o.kept, o.total, o.path, text)
}

// ansi matches terminal escape sequences.
var ansi = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])`)

func (s *shell) stop() {
	if s.bash != nil {
		s.bash.kill()
		s.bash = nil
	}
}

func (s *shell) close() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.stop()
}

// bash is one bash process. Commands go in by a file, and its standard input tells
// it to take them from there: what bash reads from a pipe it reads byte by byte, of
// which each is a system call, and these are dear in some sandboxes. What commands
// print comes by a pipe, and after it, there, bash says how each has ended.
type bash struct {
	cmd     *exec.Cmd
	stdin   *os.File
	command *os.File // in memory; bash shares the place where it is read next
	printed *os.File // the writing end of the pipe
	output  *capture
	ended   chan struct{} // closed when the process has been waited for
	files   []*os.File    // closed by kill
}

// commandFD is where bash keeps the descriptor for commands.
const commandFD = "60"

// Waiting, bash has a variable with what takes a command from the file and runs it,
// and goOn has it do so. Commands do not see the variable. The backslashes keep
// aliases out of it.
const (
	takeCommand = `_hearth='IFS= \builtin read -rd "" -u` + commandFD + ` _hearth;\builtin eval "$_hearth"'` + "\n"
	goOn        = `\builtin eval "$_hearth"` + "\n"
)

func (s *shell) startBash() (*bash, error) {
	var files []*os.File
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		files = append(files, r, w)
		return r, w, err
	}
	stdinR, stdinW, err1 := pipe()
	outputR, outputW, err2 := pipe()
	command, err3 := memoryFile()
	if err3 == nil {
		files = append(files, command)
	}
	closeAll := func() {
		for _, f := range files {
			f.Close()
		}
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		closeAll()
		return nil, err
	}
	cmd := exec.Command("/bin/bash", "--noprofile", "--norc")
	cmd.Dir, cmd.Env = s.workdir, s.env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdinR, outputW, outputW
	cmd.ExtraFiles = []*os.File{command}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.orphans.start(s.start, cmd); err != nil {
		closeAll()
		return nil, err
	}
	stdinR.Close()
	b := &bash{
		cmd: cmd, stdin: stdinW, command: command, printed: outputW,
		output: &capture{spill: s.spill}, ended: make(chan struct{}), files: []*os.File{stdinW, command, outputR, outputW},
	}
	go b.output.read(outputR)
	go func() {
		_ = cmd.Wait() // its status is read from ProcessState
		s.orphans.forget(cmd.Process.Pid)
		close(b.ended)
	}()
	prepare := "exec " + commandFD + "<&3 3<&-\n" + takeCommand
	if s.processes > 0 {
		prepare += fmt.Sprintf("ulimit -u %d\n", s.processes)
	}
	_, err := stdinW.WriteString(prepare)
	return b, err
}

var errEnded = errors.New("bash has ended")

// execute runs a command and returns its exit status, once all that it printed
// has been captured. On any error the process must be killed.
func (b *bash) execute(ctx context.Context, command string) (int, error) {
	nonce := rand.Text()
	said := b.output.await(nonce)
	if err := errors.Join(b.block(), b.give(command, nonce)); err != nil {
		return 0, err
	}
	if _, err := b.stdin.WriteString(goOn); err != nil {
		return b.endStatus(ctx, nonce, said)
	}
	blocking := time.NewTicker(blockEvery)
	defer blocking.Stop()
	for {
		select {
		case status := <-said:
			return strconv.Atoi(status)
		case <-b.ended:
			return b.endStatus(ctx, nonce, said)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-blocking.C:
			_ = b.block() // it could be done before
		}
	}
}

// blockEvery is how often the pipe is seen to while a command runs.
const blockEvery = 250 * time.Millisecond

// block makes those who write to the pipe wait while it is full. All share one
// description of it, so that a program which wants not to wait, as some runtimes
// do, would have others lose what they print.
func (b *bash) block() error {
	return WithDescriptor(b.printed, func(fd int) error { return unix.SetNonblock(fd, false) })
}

// give puts a command where bash takes it from, so that its exit status will be
// said with the nonce.
func (b *bash) give(command, nonce string) error {
	// A command cannot hold a zero, which ends it here. Its standard output and error,
	// which are the same, are exchanged: what it does to its own is undone with that.
	text := fmt.Sprintf("\\builtin unset -v _hearth; \\builtin eval %s </dev/null >&2 2>&1 %s<&-; \\builtin printf '\\0%%s %%s\\0' %s \"$?\"; %s\x00",
		quote(strings.ReplaceAll(command, "\x00", "")), commandFD, nonce, takeCommand)
	if err := b.command.Truncate(0); err != nil {
		return err
	}
	if _, err := b.command.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	_, err := b.command.Seek(0, io.SeekStart)
	return err
}

// memoryFile makes a file in memory.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("command", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "command"), nil
}

// endStatus is the exit status of a bash that has ended, once all has been captured
// that was printed until then.
func (b *bash) endStatus(ctx context.Context, nonce string, said <-chan string) (int, error) {
	select {
	case <-b.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	// What it has started may go on to print, so that the pipe does not end. It may
	// be full, too, and this then blocks; killing the shell closes the pipe.
	go func() { _, _ = b.printed.WriteString("\x00" + nonce + " \x00") }()
	select {
	case <-said:
		return exitStatus(b.cmd), errEnded
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// exitStatus is that of a command that has ended, as a shell has it.
func exitStatus(cmd *exec.Cmd) int {
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// kill ends bash and all it has started in its session's process group.
func (b *bash) kill() {
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-b.ended
	for _, f := range b.files {
		f.Close()
	}
}

// quote makes one word of a text, whatever is in it.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// capture holds what a command prints: the last maxOutput bytes, and when there
// are more, the first maxKept in a file. What a command prints must not cost
// the hand, which lives in the sandbox's memory, more than that.
type capture struct {
	spill func() (*os.File, string, error)

	mu   sync.Mutex
	held captured    // guarded by mu
	mark []byte      // guarded by mu; what precedes the word that is awaited, nil for none
	said chan string // guarded by mu
}

// captured is output captured so far.
type captured struct {
	total int64
	end   []byte   // the last bytes, at least maxOutput of them when there are as many
	file  *os.File // nil unless there is more than is shown
	path  string   // of file
	kept  int64    // bytes in file
	full  bool     // no more goes into it
}

// await gives the word that will be said with a nonce in the output: between it and
// a zero. All that precedes it there has then been captured. One word is awaited at
// a time.
func (c *capture) await(nonce string) <-chan string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark, c.said = []byte("\x00"+nonce+" "), make(chan string, 1)
	return c.said
}

// take hands over what was captured and begins anew.
func (c *capture) take() captured {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.held = captured{}
	if held.file != nil {
		held.file.Close()
	}
	return held
}

// read captures until the pipe is closed.
func (c *capture) read(pipe *os.File) {
	buffer := make([]byte, 64<<10)
	var rest []byte // what may be the beginning of a mark
	for {
		n, err := pipe.Read(buffer)
		rest = c.add(append(rest, buffer[:n]...))
		if err != nil {
			return
		}
	}
}

// add captures data, without the word awaited and its mark, and returns what must
// wait for more to tell whether it is one.
func (c *capture) add(data []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mark != nil {
		before, after, found := bytes.Cut(data, c.mark)
		if !found {
			keep := overlap(data, c.mark)
			c.keep(data[:len(data)-keep])
			return bytes.Clone(data[len(data)-keep:])
		}
		c.keep(before)
		word, after, ended := bytes.Cut(after, []byte{0})
		if !ended {
			return bytes.Clone(data[len(before):])
		}
		c.mark = nil
		c.said <- string(word)
		data = after
	}
	c.keep(data)
	return nil
}

// overlap is how much of the end of data is the beginning of mark.
func overlap(data, mark []byte) int {
	for n := min(len(data), len(mark)-1); n > 0; n-- {
		if bytes.HasSuffix(data, mark[:n]) {
			return n
		}
	}
	return 0
}

// keep takes in output. The caller holds mu.
func (c *capture) keep(data []byte) {
	o := &c.held
	o.total += int64(len(data))
	o.end = append(o.end, data...)
	if o.total > maxOutput && !o.full {
		if o.file == nil {
			data = o.end // all there is, so far
			o.file, o.path, _ = c.spill()
		}
		o.write(data)
	}
	if len(o.end) > 4*maxOutput {
		o.end = append(o.end[:0], o.end[len(o.end)-maxOutput:]...)
	}
}

// write puts output into the file, as much as may be kept and can be.
func (o *captured) write(data []byte) {
	if o.file == nil {
		o.full = true
		return
	}
	n, err := o.file.Write(data[:min(int64(len(data)), maxKept-o.kept)])
	o.kept += int64(n)
	o.full = err != nil || o.kept == maxKept
}

// tail is the last maxOutput bytes.
func (o *captured) tail() string { return string(o.end[max(0, len(o.end)-maxOutput):]) }
