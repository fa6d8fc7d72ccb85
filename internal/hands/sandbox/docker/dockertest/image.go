package dockertest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// tools are what the suite uses in a sandbox.
const tools = `bash sh echo printf false awk basename cat chattr chgrp chmod chown chroot cmp cp cut date dd dirname env find fold getent grep head hostname
	id kill ln ls mkdir mkfifo mknod mktemp mount mv nice readlink rm rmdir sed seq setsid sleep sort stat stty tail tar
	tee test timeout touch tr true truncate umount uname uniq unshare wc which xargs yes`

// ImportImage makes an image of files of the host, for there is no registry here.
func ImportImage(socket, name string, files map[string]string) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, dir := range []string{"usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "tmp", "var", "root", "home"} {
		if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := w.WriteHeader(&tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: "usr/" + link}); err != nil {
			return err
		}
	}
	for name, source := range files {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	repository, tag, _ := strings.Cut(name, ":")
	response, err := clientAt(socket).Post(fmt.Sprintf("http://docker/images/create?fromSrc=-&repo=%s&tag=%s", repository, tag), "application/x-tar", &archive)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || strings.Contains(string(said), `"error"`) {
		return fmt.Errorf("import of %s: %s: %w", name, said, err)
	}
	return nil
}

// ToolFiles are the files of the tools and of their libraries, by where they
// belong in an image in which /bin and its like are links into /usr.
func ToolFiles() (map[string]string, error) {
	files := map[string]string{}
	for _, tool := range strings.Fields(tools) {
		found, err := exec.LookPath(tool)
		if err != nil {
			continue // what needs it will say so
		}
		files[path.Join("/usr/bin", tool)] = found
	}
	var programs []string
	for _, program := range files {
		programs = append(programs, program)
	}
	out, err := exec.Command("ldd", programs...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return nil, fmt.Errorf("ldd: %w", err)
	}
	for field := range strings.FieldsSeq(string(out)) {
		// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", and headings "/usr/bin/ls:"
		if !filepath.IsAbs(field) || strings.HasSuffix(field, ":") {
			continue
		}
		if info, err := os.Stat(field); err != nil || info.Mode().Type() == fs.ModeDir {
			continue
		}
		name := field
		if !strings.HasPrefix(name, "/usr/") {
			name = path.Join("/usr", name)
		}
		files[name] = field
	}
	return files, nil
}
