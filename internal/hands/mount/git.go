package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// mountRepository clones a repository beside the sandbox's directories and moves
// it there whole, so that the token is at no time where the sandbox could look,
// and Git, which runs as the worker, never in a tree that the sandbox can change.
func (m *Mounter) mountRepository(ctx context.Context, r resource) error {
	if m.cloned(r) {
		return nil // and whatever the session has made of it is its own
	}
	token, err := m.token(ctx, r.ID)
	if err != nil {
		return err
	}
	incoming := filepath.Join(m.Dir, incomingDir)
	if err := errors.Join(os.RemoveAll(incoming), os.Mkdir(incoming, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(incoming)
	tree := filepath.Join(incoming, "tree")
	bounded, free := m.bound(ctx, incoming)
	err = m.clone(bounded, r, token, tree)
	free()
	if err != nil {
		return err
	}
	size := sandbox.Usage(tree)
	if size > m.room() {
		return m.tooLarge(fmt.Sprintf("the repository takes %d bytes", size))
	}
	if err := os.WriteFile(filepath.Join(tree, cloneMark), []byte(markOf(r)), 0o644); err != nil {
		return err
	}
	if err := m.give(tree); err != nil {
		return err
	}
	if err := m.move(ctx, tree, r); err != nil {
		return err
	}
	m.brought += size
	return nil
}

// boundEvery is how often it is looked at how large a clone is: Git has no bound for
// that, and says nothing before it has fetched all.
const boundEvery = time.Second

// bound returns a context that ends when what is below a directory takes more than may
// be mounted, or when free is called.
func (m *Mounter) bound(ctx context.Context, dir string) (_ context.Context, free func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if m.Disk == 0 {
		return ctx, func() { cancel(nil) }
	}
	room, large := m.room(), m.tooLarge("the repository takes more")
	go func() {
		for wait := boundEvery; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			began := time.Now()
			if sandbox.Usage(dir) > room {
				cancel(large)
				return
			}
			wait = max(boundEvery, 10*time.Since(began))
		}
	}()
	return ctx, func() { cancel(nil) }
}

// cloneMark is the file in a repository that says which resource it is. Git leaves it
// alone. It is for a worker that finds the working directory of an earlier one, in a
// volume, and not its list.
const cloneMark = ".git/hearth-resource"

func markOf(r resource) string { return r.ID + "\n" }

// cloned tells whether the repository is in its place already.
func (m *Mounter) cloned(r resource) bool {
	at, err := m.open(r.MountPath)
	if err != nil {
		return false // what is wrong with it, move says
	}
	defer at.root.Close()
	// Without waiting, for the sandbox may have put a pipe there.
	f, err := at.root.OpenFile(path.Join(at.name, cloneMark), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false
	}
	mark, err := io.ReadAll(io.LimitReader(f, int64(len(markOf(r)))+1))
	return err == nil && string(mark) == markOf(r)
}

// token is what the repository is fetched with; "" for nothing. Servers other
// than Hearth do not tell.
func (m *Mounter) token(ctx context.Context, resourceID string) (string, error) {
	var t api.ResourceToken
	err := m.Server.Do(ctx, "GET", "/v1/sessions/"+url.PathEscape(m.SessionID)+"/resources/"+url.PathEscape(resourceID)+"/token", nil, &t)
	var answer interface{ NotFound() bool }
	if errors.As(err, &answer) && answer.NotFound() {
		return "", nil
	}
	return t.AuthorizationToken, err
}

func (m *Mounter) clone(ctx context.Context, r resource, token, tree string) error {
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("%.200q is not the https:// address of a Git repository", r.URL)
	}
	g := git{log: m, url: u, token: token, path: r.MountPath}
	args := []string{"clone", "--progress", "--no-checkout", "--template="}
	if r.Checkout != nil && r.Checkout.Type == "branch" {
		args = append(args, "--branch", r.Checkout.Name)
	}
	if err := g.run(ctx, filepath.Dir(tree), append(args, "--", r.URL, tree)...); err != nil {
		return err
	}
	if r.Checkout == nil || r.Checkout.Type != "commit" {
		if g.run(ctx, tree, "rev-parse", "--quiet", "--verify", "HEAD") != nil {
			return nil // an empty repository has nothing to check out
		}
		return g.run(ctx, tree, "checkout", "--force")
	}
	sha := r.Checkout.SHA
	if g.run(ctx, tree, "cat-file", "-e", sha+"^{commit}") != nil {
		// It is in no branch; many servers give it out all the same.
		if err := g.run(ctx, tree, "fetch", "--progress", "origin", sha); err != nil {
			return err
		}
	}
	return g.run(ctx, tree, "checkout", "--force", "--detach", sha)
}

// git runs Git for one repository.
type git struct {
	log   *Mounter
	url   *url.URL
	token string
	path  string
}

func (g git) run(ctx context.Context, dir string, args ...string) error {
	program, err := exec.LookPath("git")
	if err != nil {
		return errors.New("the worker's host has no git program; install it there (Debian: apt-get install git)")
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, g.environment()
	said := &chatter{mounter: g.log, path: g.path, last: time.Now()}
	cmd.Stderr = said
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text := tail(said.text())
		if g.token != "" {
			text = strings.ReplaceAll(text, g.token, "[token]")
		}
		return fmt.Errorf("git %s of %s: %w: %s", args[0], g.url.Redacted(), err, text)
	}
	return nil
}

// passed are the variables of the worker's own environment that Git gets: how to
// reach the outside.
var passed = []string{"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"}

// tokenVariable holds the token for Git's credential helper.
const tokenVariable = "HEARTH_REPOSITORY_TOKEN"

// environment is Git's. The token is in it and not among the arguments, which
// every process of the host could read; and the file with the host's own
// configuration is left out, whatever it may run or tell.
func (g git) environment() []string {
	env := []string{
		"HOME=/nonexistent", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_LFS_SKIP_SMUDGE=1",
	}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	settings := [][2]string{
		{"protocol.allow", "never"}, {"protocol.http.allow", "always"}, {"protocol.https.allow", "always"},
		{"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"}, {"submodule.recurse", "false"}, {"gc.auto", "0"},
		{"advice.detachedHead", "false"}, {"http.lowSpeedLimit", "1000"}, {"http.lowSpeedTime", "60"},
	}
	if g.token != "" {
		// Not as an extra header: Git sends those to whatever host it is led to.
		env = append(env, tokenVariable+"="+g.token)
		settings = append(settings, [2]string{"credential." + g.url.Scheme + "://" + g.url.Host + ".helper",
			`!printf 'username=x-access-token\npassword=%s\n' "$` + tokenVariable + `"; true`})
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return env
}

// chatter keeps the end of what Git says and logs its progress now and then.
type chatter struct {
	mounter *Mounter
	path    string

	mu   sync.Mutex
	end  []byte    // guarded by mu
	last time.Time // guarded by mu
}

// maxChatter is how much of what Git says is kept, in bytes.
const maxChatter = 4 << 10

func (c *chatter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = append(c.end, b...)
	if extra := len(c.end) - maxChatter; extra > 0 {
		c.end = bytes.Clone(c.end[extra:])
	}
	if time.Since(c.last) >= progressEvery {
		c.last = time.Now()
		lines := strings.FieldsFunc(string(c.end), func(r rune) bool { return r == '\r' || r == '\n' })
		if len(lines) > 0 {
			c.mounter.Log.Info("cloning a repository", "path", c.path, "git", lines[len(lines)-1])
		}
	}
	return len(b), nil
}

func (c *chatter) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.end)
}

// give makes a tree the sandbox's own.
func (m *Mounter) give(tree string) error {
	uid, gid, ok := m.user()
	if !ok {
		return nil
	}
	return filepath.WalkDir(tree, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, uid, gid)
	})
}

// move puts a tree where the sandbox finds it. What the sandbox has there is left
// alone, unless it is an empty directory.
func (m *Mounter) move(ctx context.Context, tree string, r resource) error {
	to, err := m.make(r.MountPath)
	if err != nil {
		return err
	}
	defer to.root.Close()
	parent, err := to.root.Open(path.Dir(to.name))
	if err != nil {
		return err
	}
	defer parent.Close()
	name := path.Base(to.name)
	err = place(unix.AT_FDCWD, tree, parent, name)
	if errors.Is(err, unix.EXDEV) { // a working directory of the user's, on a volume for instance
		err = m.carry(ctx, tree, parent, passing+sum([]byte(r.ID))[:16], name)
	}
	if errors.Is(err, errTaken) {
		return fmt.Errorf("there is something at %s already", r.MountPath)
	}
	return err
}

// errTaken is of a place where something is already.
var errTaken = errors.New("there is something already")

// place moves a tree to a name in parent. What is a directory takes the place of an
// empty directory at most, on any file system.
func place(from int, tree string, parent *os.File, name string) error {
	err := unix.Renameat(from, tree, int(parent.Fd()), name)
	for _, taken := range []error{unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR, unix.EBUSY} {
		if errors.Is(err, taken) {
			return errTaken
		}
	}
	return err
}
