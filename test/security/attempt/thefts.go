package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// thefts look for secrets. They succeed when they find one, and say it.
var thefts = []try{
	{"search the memory of processes", false, searchMemory},
	plain("read inherited descriptors", false, func() error {
		var found [][]byte
		for fd := 3; fd < 1024; fd++ {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
				continue // there is none, or it is our own
			}
			content := make([]byte, 4096)
			if n, err := unix.Pread(fd, content, 0); err == nil {
				found = append(found, content[:n])
			}
		}
		return tell(bytes.Join(found, []byte("\n")))
	}),
	plain("read the descriptors of processes", false, func() error { return tell(read("/proc/[0-9]*/fd/*")) }),
	plain("read the environments of processes", false, func() error { return tell(read("/proc/[0-9]*/environ", "/proc/[0-9]*/task/*/environ")) }),
	plain("read the arguments of processes", false, func() error { return tell(read("/proc/[0-9]*/cmdline")) }),
	plain("read what else the kernel tells of processes", false, func() error {
		return tell(read("/proc/[0-9]*/maps", "/proc/[0-9]*/mountinfo", "/proc/[0-9]*/comm", "/proc/[0-9]*/cgroup", "/proc/net/unix", "/proc/keys", "/proc/key-users"))
	}),
	plain("search the files", false, func() error {
		var found []byte
		for _, dir := range []string{"/workspace", "/tmp", "/var", "/run", "/root", "/home", "/mnt", "/srv", "/dev/shm", "/opt"} {
			_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() || filepath.Base(path) == "attempt" {
					return nil
				}
				found = append(append(found, path...), '\n')
				found = append(append(found, read(path)...), '\n')
				return nil
			})
		}
		return tell(found)
	}),
}

// secret is what secrets look like here. Programs and commands hold no text of
// this form, only patterns of it.
var secret = regexp.MustCompile(`secret-[A-Z2-7]{26}`)

// tell fails unless there is a secret in what was found.
func tell(found []byte) error {
	if all := secret.FindAll(found, 3); len(all) > 0 {
		fmt.Printf("%s\n", bytes.Join(all, []byte(" ")))
		return nil
	}
	return fmt.Errorf("no secret in %d bytes", len(found))
}

// read reads the first of what can be read of files, without waiting for any.
func read(patterns ...string) (all []byte) {
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern) // constant patterns are well-formed, and other names need not be
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
				target, _ := os.Readlink(path)
				all = append(append(all, target...), '\n')
				continue
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			content, _ := io.ReadAll(io.LimitReader(f, 64<<10)) // what there is
			all = append(append(all, content...), '\n')
			f.Close()
		}
	}
	return all
}

// searchMemory looks through the memory of a process, or else of all but this
// one.
func searchMemory(args []string) error {
	dirs := args
	if len(dirs) == 0 {
		dirs, _ = filepath.Glob("/proc/[0-9]*") // likewise
	}
	var found []byte
	readable := 0
	for _, dir := range dirs {
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		maps, err := os.ReadFile(dir + "/maps")
		if err != nil {
			continue
		}
		memory, err := os.Open(dir + "/mem")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(maps)) {
			var from, to int64
			var rights string
			if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") || to-from > 256<<20 {
				continue
			}
			content, _ := io.ReadAll(io.NewSectionReader(memory, from, to-from)) // what can be read
			readable += len(content)
			found = append(found, bytes.Join(secret.FindAll(content, -1), []byte("\n"))...)
		}
		memory.Close()
	}
	if err := tell(found); err != nil {
		return fmt.Errorf("%w, of %d bytes of memory", err, readable)
	}
	return nil
}
