package server

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
)

// list is a list of the API to be paged through.
type list struct {
	name, path string
	ascending  bool
	add        func() // one more object
}

// lists are all lists there are, in both orders where there are two.
func lists(s *site) []list {
	b := s.brain
	quiet := b.session(s.agent.ID, s.env.ID)
	interrupt := func() {
		ok[object](b, b.key, "POST", "/v1/sessions/"+quiet.ID+"/events", object{"events": []object{{"type": "user.interrupt"}}})
	}
	rename := 0
	return []list{
		{"agents", "/v1/agents", false, func() { b.agent() }},
		{"agent versions", s.fill("/v1/agents/{agent_id}/versions"), false, func() {
			rename++
			ok[api.Agent](b, b.key, "POST", s.fill("/v1/agents/{agent_id}"), object{"name": fmt.Sprint("name ", rename)})
		}},
		{"environments", "/v1/environments", false, func() { b.environment() }},
		{"keys", s.keys(), false, func() { b.envKey(s.env.ID, nil) }},
		{"work", s.fill("/v1/environments/{environment_id}/work"), false, func() { b.session(s.agent.ID, s.env.ID, "$ true") }},
		{"sessions", "/v1/sessions", false, func() { b.session(s.agent.ID, s.env.ID) }},
		{"oldest sessions", "/v1/sessions?order=asc", true, func() { b.session(s.agent.ID, s.env.ID) }},
		{"vaults", "/v1/vaults", false, func() { b.vault() }},
		{"credentials", s.fill("/v1/vaults/{vault_id}/credentials"), false, func() {
			b.credential(s.ids["vault_id"], object{"type": "static_bearer", "token": "t", "mcp_server_url": "https://example.com/" + api.NewID("x")})
		}},
		{"events", "/v1/sessions/" + quiet.ID + "/events", true, interrupt},
		{"latest events", "/v1/sessions/" + quiet.ID + "/events?order=desc", false, interrupt},
	}
}

// get reads a page.
func (b *brain) page(path string, query ...string) api.BidirectionalPage[object] {
	b.t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	return ok[api.BidirectionalPage[object]](b, b.key, "GET", path+separator+strings.Join(query, "&"), nil)
}

// names tells objects apart; the versions of an agent have one id.
func names(objects []object) []string {
	all := make([]string, len(objects))
	for i, o := range objects {
		all[i] = fmt.Sprint(o["id"], " ", o["version"])
	}
	return all
}

// TestPagesAreStable pages through every list while it grows: what was there is
// seen once and in order; what comes is seen only where the list goes on to it.
func TestPagesAreStable(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for _, l := range lists(b.site()) {
			for range 6 {
				l.add()
			}
			there := names(b.page(l.path, "limit=100").Data)
			if len(there) < 6 {
				t.Fatalf("%s: %d on one page", l.name, len(there))
			}
			var seen []string
			for cursor := "limit=2"; ; {
				page := b.page(l.path, cursor)
				if len(page.Data) > 2 {
					t.Errorf("%s: a page of %d, asked for 2", l.name, len(page.Data))
				}
				seen = append(seen, names(page.Data)...)
				if page.NextPage == nil {
					break
				}
				next := "limit=2&page=" + url.QueryEscape(*page.NextPage)
				if next == cursor {
					t.Fatalf("%s: the next page is the page itself", l.name)
				}
				if cursor = next; len(seen) < 8 {
					l.add()
				}
			}
			var old, fresh []string
			for _, name := range seen {
				if slices.Contains(there, name) {
					old = append(old, name)
				} else {
					fresh = append(fresh, name)
				}
			}
			if !slices.Equal(old, there) {
				t.Errorf("%s: page by page %v, at once %v", l.name, old, there)
			}
			if all := names(b.page(l.path, "limit=100").Data); l.ascending && !slices.Equal(seen, all) {
				t.Errorf("%s: page by page %v, in the end %v", l.name, seen, all)
			}
			if slices.Sort(fresh); len(slices.Compact(fresh)) != len(seen)-len(old) {
				t.Errorf("%s: something was seen twice: %v", l.name, seen)
			}
		}
	})
}

// TestCursorsBelongToTheirList: a cursor of another list, or of the same in the
// other order, is refused and not misread.
func TestCursorsBelongToTheirList(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		all := lists(b.site())
		cursors := map[string]string{}
		for _, l := range all {
			l.add()
			l.add()
			next := b.page(l.path, "limit=1").NextPage
			if next == nil {
				t.Fatalf("%s: no second page", l.name)
			}
			cursors[l.name] = "page=" + url.QueryEscape(*next)
		}
		for _, l := range all {
			for from, cursor := range cursors {
				separator := "?"
				if strings.Contains(l.path, "?") {
					separator = "&"
				}
				a := b.do(b.key, "GET", l.path+separator+cursor, nil)
				if from == l.name && a.status != 200 || from != l.name && (a.status != 400 || !strings.HasPrefix(a.failure().Message, "page:")) {
					t.Errorf("%s with a cursor of %s: %d %s", l.name, from, a.status, a.body)
				}
			}
		}
	})
}

// TestPageSizes: twenty unless asked, at most a hundred; of events a thousand.
func TestPageSizes(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for range 21 {
			b.environment()
		}
		for query, want := range map[string]int{"": 20, "limit=1": 1, "limit=21": 21, "limit=100": 21} {
			if got := len(b.page("/v1/environments", query).Data); got != want {
				t.Errorf("%d environments for %q, want %d", got, query, want)
			}
		}
		s := b.session(b.agent().ID, b.environment().ID)
		interrupts := slices.Repeat([]object{{"type": "user.interrupt"}}, 50)
		for range 21 {
			ok[object](b, b.key, "POST", "/v1/sessions/"+s.ID+"/events", object{"events": interrupts})
		}
		for query, want := range map[string]int{"": 1000, "limit=1000": 1000, "limit=7": 7} {
			if got := len(b.page("/v1/sessions/"+s.ID+"/events", query).Data); got != want {
				t.Errorf("%d events for %q, want %d", got, query, want)
			}
		}
	})
}

// TestSessionsBackwards walks to the last page and back over the same pages.
func TestSessionsBackwards(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		for range 7 {
			b.session(agent.ID, env.ID)
		}
		for _, path := range []string{"/v1/sessions", "/v1/sessions?order=asc"} {
			var forth, back [][]string
			page := b.page(path, "limit=3")
			if page.PrevPage != nil {
				t.Errorf("%s: there is a page before the first", path)
			}
			for forth = append(forth, names(page.Data)); page.NextPage != nil; forth = append(forth, names(page.Data)) {
				page = b.page(path, "limit=3", "page="+url.QueryEscape(*page.NextPage))
			}
			for back = append(back, names(page.Data)); page.PrevPage != nil; back = append(back, names(page.Data)) {
				page = b.page(path, "limit=3", "page="+url.QueryEscape(*page.PrevPage))
			}
			// On the way back, pages are full from the end they are counted from.
			if want := slices.Concat(forth...); len(forth) != 3 || len(want) != 7 {
				t.Errorf("%s: %d pages forth with %d sessions", path, len(forth), len(want))
			}
			slices.Reverse(back)
			if len(back) != 3 || !slices.EqualFunc(forth, back, slices.Equal) {
				t.Errorf("%s: forth %v, back %v", path, forth, back)
			}
			if page.NextPage == nil {
				t.Errorf("%s: back on the first page there is none after it", path)
			}
		}
	})
}

// times are a range's bounds around a moment, and what each lets through.
func times(at time.Time) map[string]func(time.Time) bool {
	stamp := url.QueryEscape(at.Format(time.RFC3339Nano))
	return map[string]func(time.Time) bool{
		"created_at[gt]=" + stamp:  func(t time.Time) bool { return t.After(at) },
		"created_at[gte]=" + stamp: func(t time.Time) bool { return !t.Before(at) },
		"created_at[lt]=" + stamp:  func(t time.Time) bool { return t.Before(at) },
		"created_at[lte]=" + stamp: func(t time.Time) bool { return !t.After(at) },
	}
}

// TestEventFilters holds every filter against the whole list.
func TestEventFilters(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		path := "/v1/sessions/" + s.session.ID + "/events"
		all := ok[api.Page[api.Event]](b, b.key, "GET", path, nil).Data
		want := map[string]func(api.Event) bool{
			"types[]=agent.tool_use": func(e api.Event) bool { return e.Type == api.EventAgentToolUse },
			"types[]=user.message&types[]=session.status_running": func(e api.Event) bool {
				return e.Type == api.EventUserMessage || e.Type == api.EventSessionStatusRunning
			},
			"types%5B%5D=agent.tool_use&types%5B%5D=no.such.event": func(e api.Event) bool { return e.Type == api.EventAgentToolUse },
			"types[]=session.deleted":                              func(api.Event) bool { return false },
		}
		for bound, lets := range times(*all[len(all)/2].ProcessedAt) {
			want[bound] = func(e api.Event) bool { return lets(*e.ProcessedAt) }
			want[bound+"&types[]=agent.tool_use"] = func(e api.Event) bool { return lets(*e.ProcessedAt) && e.Type == api.EventAgentToolUse }
		}
		ids := func(events []api.Event) (ids []string) {
			for _, e := range events {
				ids = append(ids, e.ID)
			}
			return ids
		}
		for query, lets := range want {
			expected := ids(slices.DeleteFunc(slices.Clone(all), func(e api.Event) bool { return !lets(e) }))
			for _, order := range []string{"", "&order=asc", "&order=desc"} {
				got := ids(ok[api.Page[api.Event]](b, b.key, "GET", path+"?"+query+order, nil).Data)
				if order == "&order=desc" {
					slices.Reverse(got)
				}
				if !slices.Equal(got, expected) {
					t.Errorf("%s%s: %v, want %v", query, order, got, expected)
				}
			}
		}
	})
}

// TestSessionFilters holds every filter against the whole list.
func TestSessionFilters(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		other := b.agent()
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+other.ID, object{"name": "renamed"})
		b.session(other.ID, s.env.ID)
		ended := b.session(s.agent.ID, s.env.ID)
		b.session(s.agent.ID, s.env.ID)
		ok[api.Session](b, b.key, "POST", "/v1/sessions/"+ended.ID+"/archive", nil)
		gone := b.session(s.agent.ID, s.env.ID)
		ok[api.Deleted](b, b.key, "DELETE", "/v1/sessions/"+gone.ID, nil)
		all := ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions?include_archived=true", nil).Data
		if len(all) != 4 {
			t.Fatalf("%d sessions, want 4", len(all))
		}
		open := func(x api.Session) bool { return x.ArchivedAt == nil }
		want := map[string]func(api.Session) bool{
			"": open, "include_archived=false": open, "include_archived=true": func(api.Session) bool { return true },
			"agent_id=" + other.ID:                        func(x api.Session) bool { return x.Agent.ID == other.ID },
			"agent_id=" + other.ID + "&agent_version=2":   func(x api.Session) bool { return x.Agent.ID == other.ID },
			"agent_id=" + other.ID + "&agent_version=1":   func(api.Session) bool { return false },
			"agent_id=no-such-agent":                      func(api.Session) bool { return false },
			"statuses[]=idle":                             func(x api.Session) bool { return x.Status == api.SessionIdle },
			"statuses[]=terminated":                       func(api.Session) bool { return false },
			"statuses[]=terminated&include_archived=true": func(x api.Session) bool { return x.ID == ended.ID },
			"statuses[]=running&statuses[]=rescheduling":  func(api.Session) bool { return false },
			"statuses[]=idle&statuses[]=terminated":       open,
		}
		for bound, lets := range times(all[2].CreatedAt) {
			want[bound+"&include_archived=true"] = func(x api.Session) bool { return lets(x.CreatedAt) }
		}
		ids := func(sessions []api.Session) (ids []string) {
			for _, x := range sessions {
				ids = append(ids, x.ID)
			}
			return ids
		}
		for query, lets := range want {
			expected := ids(slices.DeleteFunc(slices.Clone(all), func(x api.Session) bool { return !lets(x) }))
			for _, order := range []string{"", "&order=desc", "&order=asc"} {
				got := ids(ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions?"+query+order, nil).Data)
				if order == "&order=asc" {
					slices.Reverse(got)
				}
				if !slices.Equal(got, expected) {
					t.Errorf("%s%s: %v, want %v", query, order, got, expected)
				}
			}
		}
	})
}
