package hand

import (
	"slices"
	"sync"
)

// maxShells is how many shells are kept besides the session's own. When one
// more is asked for, the one that has rested longest ends.
const maxShells = 32

// shells are the shells of a session: its own, and one for each further agent
// at work in it, so that they neither wait for each other nor find themselves
// in another's directory.
type shells struct {
	own *shell

	mu    sync.Mutex
	named map[string]*shell // guarded by mu
	order []string          // their names, the latest used last; guarded by mu
}

func newShells(own *shell) *shells { return &shells{own: own, named: map[string]*shell{}} }

// get returns the shell of a name; "" is the session's own.
func (s *shells) get(name string) *shell {
	if name == "" {
		return s.own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.named[name]
	if ok {
		s.order = slices.DeleteFunc(s.order, func(other string) bool { return other == name })
	} else {
		s.makeRoom()
		own := s.own
		found = &shell{workdir: own.workdir, env: own.env, spill: own.spill, start: own.start, orphans: own.orphans, processes: own.processes}
		s.named[name] = found
	}
	s.order = append(s.order, name)
	return found
}

// makeRoom ends the shell that was used longest ago, of those that rest. The
// caller holds mu.
func (s *shells) makeRoom() {
	if len(s.named) < maxShells {
		return
	}
	for i, name := range s.order {
		oldest := s.named[name]
		if !oldest.turn.TryLock() {
			continue
		}
		oldest.stop()
		oldest.turn.Unlock()
		delete(s.named, name)
		s.order = slices.Delete(s.order, i, i+1)
		return
	}
}

func (s *shells) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.named {
		one.close()
	}
	s.own.close()
}
