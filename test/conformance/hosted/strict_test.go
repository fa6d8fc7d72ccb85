package hosted_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hearth/test/conformance/hosted"
)

// TestEveryObligationIsEnforced breaks each obligation with a bare client that
// otherwise behaves, and wants the fake to name that one and no other.
func TestEveryObligationIsEnforced(t *testing.T) {
	t.Parallel()
	breaches := map[hosted.Obligation]func(*client){
		hosted.KnownCalls: func(c *client) { c.attach(); c.do("GET", "/v1/sessions", nil); c.leave() },
		hosted.NoAPIKey: func(c *client) {
			c.header.Set("X-Api-Key", "k")
			c.poll()
		},
		hosted.KeyPolls: func(c *client) { c.key = "another"; c.poll() },
		hosted.TokenServes: func(c *client) {
			c.claim()
			token := c.token
			c.token = c.key
			c.beat("NO_HEARTBEAT")
			c.token = token
			c.finish()
		},
		hosted.Headers:  func(c *client) { c.header.Del("Anthropic-Beta"); c.poll() },
		hosted.WorkerID: func(c *client) { c.workerID = ""; c.poll() },
		hosted.Bodies: func(c *client) {
			c.offer()
			c.poll()
			c.body = "{}"
			c.ack()
			c.body = ""
			c.finish()
		},
		hosted.PollBlock:   func(c *client) { c.block = "1000"; c.poll() },
		hosted.PollBackoff: func(c *client) { c.service.Fail(hosted.Poll, hosted.Fault{Status: 500}); c.poll(); c.poll() },
		hosted.PollFatal: func(c *client) {
			c.service.Fail(hosted.Poll, hosted.Fault{Status: 401})
			c.poll()
			c.pause()
			c.poll()
		},
		hosted.AckAtOnce: func(c *client) {
			c.offer()
			c.poll()
			c.beat("NO_HEARTBEAT")
			c.ack()
			c.session.EndTurn()
			c.finish()
		},
		hosted.AckOnce:   func(c *client) { c.claim(); c.ack(); c.finish() },
		hosted.BeatFirst: func(c *client) { c.claim(); c.beat("2026-01-01T00:00:00Z"); c.finish() },
		hosted.BeatEcho:  func(c *client) { c.attach(); c.beat(c.last + "x"); c.leave() },
		hosted.BeatPace:  func(c *client) { c.attach(); c.beat(c.last); c.beat(c.last); c.leave() },
		hosted.LeaseKept: func(c *client) { c.claim(); c.getSession(); c.follow(); c.leave() },
		hosted.SessionFirst: func(c *client) {
			c.claim()
			c.beat("NO_HEARTBEAT")
			c.follow()
			c.leave()
		},
		hosted.SkillByID: func(c *client) {
			c.claim()
			c.beat("NO_HEARTBEAT")
			c.getSession()
			c.get("/v1/skills/skill_a/versions/latest/content")
			c.follow()
			c.leave()
		},
		hosted.StreamThenList: func(c *client) { c.claim(); c.beat("NO_HEARTBEAT"); c.getSession(); c.list(); c.leave() },
		hosted.ListToTheEnd: func(c *client) {
			c.claim()
			c.beat("NO_HEARTBEAT")
			c.getSession()
			c.stream()
			c.page("limit=1000")
			c.leave()
		},
		hosted.ListOrder: func(c *client) {
			c.claim()
			c.beat("NO_HEARTBEAT")
			c.getSession()
			c.stream()
			c.pages("limit=1000&order=desc")
			c.leave()
		},
		hosted.OneResult: func(c *client) {
			c.attach()
			id := c.session.Bash("true")
			event := resultOf(id, "done")
			c.send(`{"events":[` + event + `,` + event + `]}`)
			c.answer(id, "done")
			c.leave()
		},
		hosted.ResultShape: func(c *client) {
			c.attach()
			id := c.session.Bash("true")
			c.answer(id, "")
			c.answer(id, "done")
			c.leave()
		},
		hosted.ResultOwed: func(c *client) {
			c.attach()
			id := c.session.Call(hosted.Tool{Name: "bash", Permission: "ask"})[0]
			c.answer(id, "done")
			c.session.Confirm(id, "deny")
			c.leave()
		},
		hosted.ResultOnce: func(c *client) {
			c.attach()
			id := c.session.Bash("true")
			c.answer(id, "done")
			c.answer(id, "done")
			c.leave()
		},
		hosted.LostIsLost: func(c *client) { c.claim(); c.item.Lose(); c.beat("NO_HEARTBEAT"); c.stop() },
		hosted.StoppingStops: func(c *client) {
			c.claim()
			c.getSession()
			c.item.RequestStop()
			c.beat("NO_HEARTBEAT")
			c.stream()
			c.stop()
		},
		hosted.CutCallsSilent: func(c *client) {
			c.claim()
			id := c.session.Bash("true")
			c.item.RequestStop()
			c.beat("NO_HEARTBEAT")
			c.answer(id, "done")
			c.stop()
		},
		hosted.ForceStop: func(c *client) { c.attach(); c.session.EndTurn() },
		hosted.StopLast:  func(c *client) { c.attach(); c.leave(); c.beat(c.last) },
		hosted.IdleStop:  func(c *client) { c.attach(); c.session.Bash("true"); c.stop() },
	}
	if rules, tried := slices.Sorted(maps.Keys(hosted.Rules())), slices.Sorted(maps.Keys(breaches)); !slices.Equal(rules, tried) {
		t.Fatalf("the rules are\n%v\nbut the breaches\n%v", rules, tried)
	}
	for obligation, commit := range breaches {
		t.Run(string(obligation), func(t *testing.T) {
			t.Parallel()
			c := newClient(t)
			commit(c)
			violations := c.end()
			if len(violations) == 0 {
				t.Fatalf("nothing was noticed in\n%s", c.service.Trace())
			}
			for _, v := range violations {
				if v.Obligation != obligation {
					t.Errorf("noticed %s\n%s", v, c.service.Trace())
				}
			}
		})
	}
}

// TestRefusedResults posts results nobody owes, one kind each.
func TestRefusedResults(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]hosted.Tool{
		"held":            {Name: "bash", Permission: "ask"},
		"held, by a word": {Name: "bash", Permission: "a word of next year"},
		"denied":          {Name: "bash", Permission: "deny"},
		"custom":          {Name: "deploy", Custom: true},
		"of the server":   {Name: "web_search", Permission: "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t)
			c.attach()
			status := c.answer(c.session.Call(call)[0], "done")
			if v := c.service.Violations(); status != http.StatusBadRequest || len(v) != 1 || v[0].Obligation != hosted.ResultOwed {
				t.Errorf("answered %d with %v", status, v)
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		c := newClient(t)
		c.attach()
		id := c.session.Bash("true")
		c.session.Interrupt(c.session.QueueInterrupt())
		status := c.answer(id, "done")
		if v := c.service.Violations(); status != http.StatusBadRequest || len(v) != 1 || v[0].Obligation != hosted.ResultOwed {
			t.Errorf("answered %d with %v", status, v)
		}
	})
}

// TestLostAnswers walks the repetitions a lost answer excuses.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	lost := hosted.Fault{Done: true}
	c.service.Fail(hosted.Ack, lost)
	c.service.Fail(hosted.Beat, lost)
	c.service.Fail(hosted.Send, lost, hosted.Fault{Status: 500})
	c.service.Fail(hosted.Stop, lost)
	c.offer()
	c.poll()
	c.ack()
	c.ack()
	c.beat("NO_HEARTBEAT")
	c.beat("NO_HEARTBEAT")
	c.getSession()
	c.follow()
	id := c.session.Bash("true")
	c.answer(id, "done")
	c.answer(id, "done")
	c.answer(id, "done")
	c.session.EndTurn()
	c.stop()
	c.stop()
	for _, v := range c.end() {
		t.Errorf("%s\n%s", v, c.service.Trace())
	}
}

// client is a bare worker: it makes the calls it is told to, by default as the
// wire asks.
type client struct {
	t        *testing.T
	service  *hosted.Service
	session  *hosted.Session
	item     *hosted.Item
	header   http.Header
	key      string // environment key
	token    string // sessions token
	workerID string
	block    string
	body     string // for calls that take none
	last     string
	streams  []io.Closer
}

func newClient(t *testing.T) *client {
	c := &client{
		t: t, service: hosted.New(hosted.Options{}), key: hosted.EnvironmentKey, workerID: "bare", block: "1",
		header: http.Header{"Anthropic-Version": {"2023-06-01"}, "Anthropic-Beta": {"managed-agents-2026-04-01"}},
	}
	c.session = c.service.NewSession(hosted.SessionOptions{Skills: []*hosted.Skill{{ID: "skill_a", Name: "a", Version: "latest"}}})
	t.Cleanup(func() { c.end() })
	return c
}

// end closes everything and says what was violated.
func (c *client) end() []hosted.Violation {
	for _, stream := range c.streams {
		_ = stream.Close()
	}
	c.service.Close()
	return c.service.Violations()
}

func (c *client) offer() { c.item = c.service.Offer(c.session) }
func (c *client) claim() { c.offer(); c.poll(); c.ack() }

// attach takes an item as far as a worker that waits for events.
func (c *client) attach() { c.claim(); c.beat("NO_HEARTBEAT"); c.getSession(); c.follow() }
func (c *client) follow() { c.stream(); c.list() }

// leave ends the turn and the item, finish only the item.
func (c *client) leave()  { c.session.EndTurn(); c.stop() }
func (c *client) finish() { c.item.AllowStop("the test is over"); c.stop() }

// pause waits longer than the pace of failed polls asks, in another worker's poll.
func (c *client) pause() {
	worker := c.workerID
	c.workerID, c.block = "another", "600"
	c.poll()
	c.workerID, c.block = worker, "1"
}

const workPath = "/v1/environments/" + hosted.EnvironmentID + "/work/"

func (c *client) poll() {
	answer := c.asKey(func() []byte {
		c.header.Set("Anthropic-Worker-ID", c.workerID)
		defer c.header.Del("Anthropic-Worker-ID")
		return c.get(workPath + "poll?block_ms=" + c.block)
	})
	var work struct{ Secret string }
	if json.Unmarshal(answer, &work) != nil || work.Secret == "" {
		return
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(work.Secret, "="))
	if err != nil {
		c.t.Fatalf("the secret is not base64: %v", err)
	}
	var secret struct {
		Token string `json:"sessions_token"`
	}
	if err := json.Unmarshal(raw, &secret); err != nil {
		c.t.Fatalf("the secret is not JSON: %v", err)
	}
	c.token = secret.Token
}

func (c *client) ack() {
	c.asKey(func() []byte { answer, _ := c.do("POST", workPath+c.item.ID+"/ack", nil); return answer })
}

// asKey makes a call with the environment key.
func (c *client) asKey(call func() []byte) []byte {
	token := c.token
	c.token = c.key
	defer func() {
		if c.token == c.key {
			c.token = token
		}
	}()
	return call()
}

func (c *client) beat(expected string) {
	answer, _ := c.do("POST", workPath+c.item.ID+"/heartbeat?expected_last_heartbeat="+url.QueryEscape(expected), nil)
	var beat struct {
		Last string `json:"last_heartbeat"`
	}
	if json.Unmarshal(answer, &beat) == nil && beat.Last != "" {
		c.last = beat.Last
	}
}

func (c *client) stop() { c.do("POST", workPath+c.item.ID+"/stop", []byte(`{"force":true}`)) }

func (c *client) getSession() { c.get("/v1/sessions/" + c.session.ID) }

func (c *client) stream() {
	response := c.open("GET", "/v1/sessions/"+c.session.ID+"/events/stream", nil)
	c.streams = append(c.streams, response.Body)
}

func (c *client) list() { c.pages("limit=1000&order=asc") }

func (c *client) pages(query string) {
	for next := c.page(query); next != ""; {
		next = c.page(query + "&page=" + url.QueryEscape(next))
	}
}

func (c *client) page(query string) (next string) {
	var page struct {
		Next string `json:"next_page"`
	}
	_ = json.Unmarshal(c.get("/v1/sessions/"+c.session.ID+"/events?"+query), &page) // an error has no next page
	return page.Next
}

func resultOf(id, output string) string {
	event, _ := json.Marshal(map[string]any{
		"type": "user.tool_result", "tool_use_id": id, "is_error": false,
		"content": []any{map[string]any{"type": "text", "text": output}},
	})
	return string(event)
}

func (c *client) answer(id, output string) (status int) {
	return c.send(`{"events":[` + resultOf(id, output) + `]}`)
}

func (c *client) send(body string) (status int) {
	_, status = c.do("POST", "/v1/sessions/"+c.session.ID+"/events", []byte(body))
	return status
}

func (c *client) get(path string) []byte {
	answer, _ := c.do("GET", path, nil)
	return answer
}

// do makes a call; one whose answer is cut answers nothing.
func (c *client) do(method, path string, body []byte) (answer []byte, status int) {
	response := c.open(method, path, body)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, 0
	}
	return answer, response.StatusCode
}

func (c *client) open(method, path string, body []byte) *http.Response {
	if body == nil && c.body != "" {
		body = []byte(c.body)
	}
	request, err := http.NewRequest(method, c.service.URL()+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	request.Header = c.header.Clone()
	request.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if strings.HasSuffix(path, "/content") {
		request.Header.Set("Accept", "application/binary")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response
}
