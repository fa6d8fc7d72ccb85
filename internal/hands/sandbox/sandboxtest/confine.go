package sandboxtest

import (
	"strings"
	"testing"
)

// outside makes a directory in the sandbox that is not in the workdir, with
// one file "f" that holds the secret.
func (b *box) outside(secret string) string {
	b.t.Helper()
	dir := b.bash("mktemp -d")
	b.t.Cleanup(func() {
		if r := b.do(toolCall("bash", input{"command": "rm -rf " + dir})); r.IsError {
			b.t.Error(r.Text)
		}
	})
	b.bash("echo " + secret + " >" + dir + "/f; chmod -R a+rwX " + dir)
	return dir
}

// The file tools stay in the workdir, by whatever road they are led out.
func testConfinement(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	secret := newMarker()
	out := b.outside(secret)
	b.bash(strings.Join([]string{
		"mkdir -p dir real; echo inside >real/f; echo changeme >dir/g",
		"ln -s " + out + " todir",
		"ln -s " + out + "/f tofile",
		"ln -s todir twice",
		"ln -s ../todir dir/up",
		"ln -s " + out + "/new dangling",
		"ln -s / root",
		"ln -s /proc/self/root procroot",
		"ln -s /proc/self/cwd/../.. proccwd",
		"ln -s loop loop",
	}, "; "))
	up := strings.Repeat("../", 40)
	for _, name := range []string{
		out + "/f", up + out + "/f", "dir/../" + up + out + "/f", b.Workdir() + "/" + up + out + "/f",
		"todir/f", "tofile", "twice/f", "dir/up/f", "root" + out + "/f", "procroot" + out + "/f",
		"/proc/self/root" + out + "/f", "/proc/self/fd/0", "/dev/zero",
	} {
		if text := b.bad("read", input{"file_path": name}); strings.Contains(text, secret) {
			t.Errorf("read of %s tells the secret", name)
		}
		b.bad("write", input{"file_path": name, "content": "overwritten"})
		b.bad("edit", input{"file_path": name, "old_string": secret, "new_string": "edited"})
		if r := b.do(toolCall("grep", input{"pattern": "marker", "path": name})); strings.Contains(r.Text, secret) {
			t.Errorf("grep of %s tells the secret", name)
		}
	}
	for _, name := range []string{out + "/f", "todir/f", "tofile", up + out + "/f"} {
		contains(t, b.bad("read", input{"file_path": name}), "is outside the session's working directory")
		contains(t, b.bad("write", input{"file_path": name, "content": "x"}), "is outside the session's working directory")
	}
	for _, name := range []string{"dangling", "todir/new", "dir/up/new", out + "/new", "todir/made/new"} {
		b.bad("write", input{"file_path": name, "content": "made"})
	}
	for _, name := range []string{"todir", "root", "..", out, "twice"} {
		for _, call := range []string{"glob", "grep"} {
			r := b.do(toolCall(call, input{"pattern": "*", "path": name}))
			if !r.IsError {
				t.Errorf("%s below %s: %.200q", call, name, r.Text)
			}
		}
	}
	b.bad("read", input{"file_path": "loop"})
	b.bad("write", input{"file_path": "loop", "content": "x"})
	if text := b.ok("grep", input{"pattern": secret[:10]}); strings.Contains(text, secret) {
		t.Errorf("grep of the workdir follows a link out: %q", text)
	}
	if text := b.ok("glob", input{"pattern": "**/f"}); strings.Contains(text, "todir") || strings.Contains(text, "twice") {
		t.Errorf("glob of the workdir follows a link out: %q", text)
	}
	equal(t, "the outside file", b.bash("cat "+out+"/f"), secret)
	equal(t, "the outside directory", b.bash("ls -A "+out), "f")

	// A link that stays inside is no offence.
	b.bash("ln -s real inlink; ln -s real/f infile; ln -s " + b.Workdir() + "/real abslink")
	for _, name := range []string{"inlink/f", "infile", "abslink/f", "dir/../real/f", "./real//f"} {
		equal(t, name, b.ok("read", input{"file_path": name}), "inside\n")
	}
	b.ok("write", input{"file_path": "inlink/made", "content": "through"})
	equal(t, "written through a link", b.get("real/made"), "through")
	b.ok("edit", input{"file_path": "infile", "old_string": "inside", "new_string": "edited"})
	equal(t, "edited through a link", b.ok("read", input{"file_path": "infile"}), "edited\n")
}

// A directory that turns into a link out and back, as fast as can be, does not
// lead a tool out between its looking and its opening.
func testConfinementRace(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	if b.guest() {
		t.Skip("gVisor does not look a name up and open it in one step; tools and shell have the same rights in a guest, so nothing is gained by it")
	}
	secret := newMarker()
	out := b.outside(secret)
	b.bash("mkdir d; echo inside >d/f; chmod -R a+rwX d; ln -s " + out + " l")

	b.installProbe()
	b.bash("./probe " + roleProbe + " exchange d l </dev/null >exchanged 2>&1 & true")
	read := 0
	for range 300 {
		r := b.do(toolCall("read", input{"file_path": "d/f"}))
		if strings.Contains(r.Text, secret) {
			t.Error("read tells the secret")
			break
		}
		if !r.IsError {
			read++
		}
		b.do(toolCall("write", input{"file_path": "d/w", "content": "x"}))
		b.do(toolCall("edit", input{"file_path": "d/f", "old_string": "marker", "new_string": "edited"}))
		if g := b.do(toolCall("grep", input{"pattern": "marker", "path": "d"})); strings.Contains(g.Text, secret) {
			t.Error("grep tells the secret")
			break
		}
	}
	equal(t, "the swapper stops", b.bash("touch stop; wait; cat exchanged"), "exchanged")
	if read == 0 {
		t.Log("the race was never won by the reader; it proves less than it could")
	}
	equal(t, "the outside directory", b.bash("ls -A "+out), "f")
	equal(t, "the outside file", b.bash("cat "+out+"/f"), secret)
}
