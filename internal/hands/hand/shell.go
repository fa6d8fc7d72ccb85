package hand

import (
	"bufio"
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
// which each is a system call, and these are dear in some sandboxes. Their exit
// statuses come back on a descriptor that commands do not see; what they print
// comes by a pipe whose writing end we hold too, so that we can mark in it where
// a command's output ends.
type bash struct {
	cmd      *exec.Cmd
	stdin    *os.File
	command  *os.File // in memory; bash shares the place where it is read next
	statuses *bufio.Reader
	mark     *os.File // writing end of the output pipe
	output   *capture
	ended    chan struct{} // closed when the process has been waited for
	files    []*os.File    // closed by kill
}

// Where bash keeps the descriptors for commands, statuses and output. Each command
// has its output put there anew, whatever the one before did to its own.
const (
	commandFD = "60"
	statusFD  = "61"
	outputFD  = "62"
)

// takeCommand has bash run the text in the file of commands. The backslashes keep
// aliases out of it.
const takeCommand = `IFS= \builtin read -rd "" -u` + commandFD + ` _hearth;\builtin eval "$_hearth"` + "\n"

func (s *shell) startBash() (*bash, error) {
	var files []*os.File
	pipe := func() (r, w *os.File, err error) {
		r, w, err = os.Pipe()
		files = append(files, r, w)
		return r, w, err
	}
	stdinR, stdinW, err1 := pipe()
	outputR, outputW, err2 := pipe()
	statusR, statusW, err3 := pipe()
	command, err4 := memoryFile()
	if err4 == nil {
		files = append(files, command)
	}
	closeAll := func() {
		for _, f := range files {
			f.Close()
		}
	}
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		closeAll()
		return nil, err
	}
	cmd := exec.Command("/bin/bash", "--noprofile", "--norc")
	cmd.Dir, cmd.Env = s.workdir, s.env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdinR, outputW, outputW
	cmd.ExtraFiles = []*os.File{statusW, command}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.orphans.start(s.start, cmd); err != nil {
		closeAll()
		return nil, err
	}
	stdinR.Close()
	statusW.Close()
	b := &bash{
		cmd: cmd, stdin: stdinW, command: command, statuses: bufio.NewReader(statusR), mark: outputW,
		output: &capture{spill: s.spill}, ended: make(chan struct{}), files: []*os.File{stdinW, command, outputR, outputW, statusR},
	}
	go b.output.read(outputR)
	go func() {
		_ = cmd.Wait() // its status is read from ProcessState
		s.orphans.forget(cmd.Process.Pid)
		close(b.ended)
	}()
	prepare := fmt.Sprintf("exec %s>&3 3>&- %s<&4 4<&- %s>&1\n", statusFD, commandFD, outputFD)
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
	if err := b.give(command, nonce); err != nil {
		return 0, err
	}
	if _, err := b.stdin.WriteString(takeCommand); err != nil {
		return b.endStatus(ctx)
	}
	type answer struct {
		status int
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		for {
			text, err := b.statuses.ReadString('\n')
			if err != nil {
				answered <- answer{err: err}
				return
			}
			if word, number, _ := strings.Cut(strings.TrimSpace(text), " "); word == nonce {
				status, err := strconv.Atoi(number)
				answered <- answer{status, err}
				return
			}
		}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return b.endStatus(ctx)
		}
		return a.status, b.settle(ctx)
	case <-b.ended:
		return b.endStatus(ctx)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// give puts a command where bash takes it from, so that its exit status will be told
// after the nonce.
func (b *bash) give(command, nonce string) error {
	// A command cannot hold a zero, which ends it here.
	text := fmt.Sprintf("\\builtin unset -v _hearth; \\builtin eval %s </dev/null >&%[2]s 2>&%[2]s %[2]s>&- %[3]s>&- %[4]s<&-; \\builtin printf '%%s %%s\\n' %[5]s \"$?\" >&%[3]s\x00",
		quote(strings.ReplaceAll(command, "\x00", "")), outputFD, statusFD, commandFD, nonce)
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

// settle waits until what was printed up to now has been captured.
func (b *bash) settle(ctx context.Context) error {
	reached := b.output.await(rand.Text())
	// The pipe may be full of what is still being printed, so this may block;
	// killing the shell closes the pipe.
	go func() { _, _ = b.mark.WriteString(reached.mark) }()
	select {
	case <-reached.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endStatus is the exit status of a bash that has ended.
func (b *bash) endStatus(ctx context.Context) (int, error) {
	select {
	case <-b.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := b.settle(ctx); err != nil {
		return 0, err
	}
	return b.cmd.ProcessState.ExitCode(), errEnded
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

	mu    sync.Mutex
	held  captured       // guarded by mu
	marks []*reachedMark // guarded by mu; awaited, oldest first
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

// reachedMark is a text awaited in the output.
type reachedMark struct {
	mark string
	done chan struct{}
}

func (c *capture) await(mark string) *reachedMark {
	r := &reachedMark{mark, make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks = append(c.marks, r)
	return r
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

// add captures data, without the mark awaited, and returns what must wait for
// more to tell whether it is one.
func (c *capture) add(data []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.marks) > 0 {
		mark := []byte(c.marks[0].mark)
		before, after, found := bytes.Cut(data, mark)
		if !found {
			keep := overlap(data, mark)
			c.keep(data[:len(data)-keep])
			return bytes.Clone(data[len(data)-keep:])
		}
		c.keep(before)
		close(c.marks[0].done)
		c.marks = c.marks[1:]
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
