package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hearth/api"
	"hearth/internal/db"
)

// bad is a request that must be refused.
type bad struct {
	what   string
	field  string // that the message must name; "" if it is about the body as a whole
	body   string
	absent bool // an id that no object has: 404 will do as well
}

// generator makes bad bodies out of a good one, by what the contract says of it.
type generator struct {
	*contract
	t    *testing.T
	base any // the good body
	// forgivesNull is for routes to which null is the same as nothing there.
	forgivesNull bool
	all          []bad
}

// hole stands in a body for text that need not be JSON.
const hole = "@hole@"

// with is the body with the value at a path replaced by text as it is.
func (g *generator) with(path []any, text string) string {
	g.t.Helper()
	body := deepCopy(g.t, g.base)
	put(&body, path, hole)
	raw, err := json.Marshal(body)
	must(g.t, err)
	return strings.Replace(string(raw), `"`+hole+`"`, text, 1)
}

func (g *generator) without(path []any) string {
	g.t.Helper()
	body := deepCopy(g.t, g.base)
	delete(at(body, path[:len(path)-1]).(object), path[len(path)-1].(string))
	raw, err := json.Marshal(body)
	must(g.t, err)
	return string(raw)
}

func deepCopy(t *testing.T, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return parse(t, string(raw))
}

func at(v any, path []any) any {
	for _, key := range path {
		v = get(v, key)
	}
	return v
}

func put(root *any, path []any, v any) {
	if len(path) == 0 {
		*root = v
		return
	}
	set(at(*root, path[:len(path)-1]), path[len(path)-1], v)
}

// named is how a path is written, and what of it a message must have at least.
func named(path []any) (whole, least string) {
	for _, key := range path {
		switch key := key.(type) {
		case int:
			whole += fmt.Sprintf("[%d]", key)
		case string:
			whole = strings.TrimPrefix(whole+"."+key, ".")
			if least != "metadata" {
				least = key
			}
		}
	}
	return whole, least
}

func (g *generator) add(path []any, what, text string) {
	g.t.Helper()
	whole, least := named(path)
	g.all = append(g.all, bad{what: whole + ": " + what, field: least, body: g.with(path, text)})
}

// addWhole is add for what is wrong with the body as such, whatever its fields.
func (g *generator) addWhole(path []any, what, text string) {
	g.t.Helper()
	whole, _ := named(path)
	g.all = append(g.all, bad{what: whole + ": " + what, body: g.with(path, text)})
}

// notText is no text, or not only one, to some reader or other.
var notText = map[string]string{
	"a NUL character": `"a\u0000b"`, "half of a surrogate pair": `"\ud800"`, "the other half": `"\udc00x"`, "a pair in the wrong order": `"\udc00\ud800"`,
}

// notUTF8 is refused before anything is read.
var notUTF8 = map[string]string{
	"a byte that begins nothing": "\"\xff\"", "an overlong NUL": "\"\xc0\x80\"", "a surrogate in UTF-8": "\"\xed\xa0\x80\"", "half a character": "\"\xe2\x82\"",
}

// notJSON does not parse.
var notJSON = map[string]string{
	"a bare word": "x", "NaN": "NaN", "Infinity": "-Infinity", "hexadecimal": "0x10", "a leading zero": "01", "a plus": "+1", "a lone point": ".5", "an open string": `"`,
	"single quotes": `'x'`, "a raw line break": "\"a\nb\"", "an unknown escape": `"\x"`, "a comma too much": "[1,]", "a comment": "/**/1", "two values": "1 2",
}

var notWhole = []string{"1.5", "-1", "1e400", "-1e400", "99999999999999999999", "9223372036854775808"}

// visit makes what can be wrong at a path, and below it.
func (g *generator) visit(path []any, s *schema, v any, required bool) {
	g.t.Helper()
	takes := g.takes(s)
	for kind, sample := range samples {
		switch {
		case takes[kind], kind == "null" && !required && g.forgivesNull:
			continue
		case len(path) > 0:
			raw, err := json.Marshal(sample)
			must(g.t, err)
			g.add(path, "a "+kind, string(raw))
		}
	}
	for what, text := range notUTF8 {
		g.addWhole(path, what, text)
	}
	for what, text := range notJSON {
		g.addWhole(path, what, text)
	}
	if len(path) > 0 {
		nest := strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)
		g.all = append(g.all, bad{what: fmt.Sprint(path, ": deep nesting"), field: path[0].(string), body: g.with(path, nest)})
		if required {
			for kind, empty := range map[string]string{"string": `""`, "array": "[]", "object": "{}"} {
				if kind == "string" && slices.Contains(mayBeEmpty, path[len(path)-1]) {
					continue
				}
				if takes[kind] && !(kind == "object" && g.isMap(s)) {
					g.add(path, "an empty "+kind, empty)
				}
			}
		}
		if takes["string"] && !g.prints(path) {
			for what, text := range notText {
				g.add(path, what, text)
			}
		}
		if words := g.choices(s); len(words) > 0 {
			for _, word := range []string{"no-such-word", " " + words[0], words[0] + "\u200b", otherCase(words[0])} {
				g.add(path, "an unknown word", quoted(word))
			}
		}
		if takes["number"] && !takes["object"] {
			for _, n := range notWhole {
				g.add(path, n, n)
			}
		}
	}
	switch v := v.(type) {
	case object:
		g.object(path, g.of(s, v), v)
	case []any:
		g.array(path, g.of(s, v), v)
	}
}

// prints tells whether a path leads into what some program has printed, which
// is kept as it is.
func (g *generator) prints(path []any) bool {
	for i, key := range path {
		if o, isObject := at(g.base, path[:i]).(object); isObject && key == "content" && strings.HasSuffix(fmt.Sprint(o["type"]), "tool_result") {
			return i+1 < len(path)
		}
	}
	return false
}

// otherCase is a word as it is not written.
func otherCase(word string) string {
	if upper := strings.ToUpper(word); upper != word {
		return upper
	}
	return strings.ToLower(word)
}

func quoted(text string) string {
	raw, _ := json.Marshal(text) // of a string
	return string(raw)
}

func (g *generator) object(path []any, s *schema, v object) {
	g.t.Helper()
	below := func(name string) []any { return append(slices.Clone(path), name) }
	printed := g.prints(append(slices.Clone(path), ""))
	for _, name := range slices.Sorted(maps.Keys(v)) {
		raw, err := json.Marshal(v)
		must(g.t, err)
		value, err := json.Marshal(v[name])
		must(g.t, err)
		for what, again := range map[string]string{"the same twice": string(value), "null before it": "null", "something before it": `{"x":[1]}`} {
			_, least := named(below(name))
			whole, _ := named(below(name))
			g.all = append(g.all, bad{what: whole + ": " + what, field: least, body: g.withObject(path, `{`+quoted(name)+`:`+again+`,`+string(raw[1:]))})
		}
		for what, key := range map[string]string{"NUL": `"a\u0000"`, "half of a surrogate pair": `"\udc00"`} {
			if printed {
				break
			}
			g.all = append(g.all, bad{what: fmt.Sprint(path, ": a key with ", what), body: g.withObject(path, `{`+key+`:1,`+string(raw[1:]))})
		}
		if s == nil || s.Properties[name] == nil {
			continue
		}
		required := slices.Contains(s.Required, name)
		if required {
			whole, least := named(below(name))
			g.all = append(g.all, bad{what: whole + ": nothing", field: least, body: g.without(below(name))})
		}
		g.visit(below(name), s.Properties[name], v[name], required)
	}
	if s == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if _, there := v[name]; !there {
			g.visit(below(name), s.Properties[name], nil, false)
		}
	}
}

// withObject is with for an object that holds what is in its place now.
func (g *generator) withObject(path []any, text string) string {
	g.t.Helper()
	if len(path) == 0 {
		return text
	}
	return g.with(path, text)
}

func (g *generator) array(path []any, s *schema, v []any) {
	g.t.Helper()
	if s == nil || s.Items == nil || len(v) == 0 {
		return
	}
	one, err := json.Marshal(v[0])
	must(g.t, err)
	if path[len(path)-1] != "content" { // which is bounded by its bytes
		g.add(path, "too many", "["+strings.Repeat(string(one)+",", 1200)+string(one)+"]")
	}
	g.add(path, "null in it", "[null]")
	for i, element := range v {
		g.visit(append(slices.Clone(path), i), s.Items, element, true)
	}
}

// limited makes texts that are too long, of characters that are counted wrongly
// with ease.
func (g *generator) limited(f form) {
	g.t.Helper()
	for _, field := range slices.Sorted(maps.Keys(f.fields)) {
		words := strings.Fields(f.fields[field])
		i := slices.Index(words, "max")
		if i < 0 {
			continue
		}
		var most int
		_, err := fmt.Sscan(words[i+1], &most)
		must(g.t, err)
		for what, character := range map[string]string{"ASCII": "x", "zero-width": "\u200b", "right to left": "\u202e\u05d0", "outside the BMP": "\U0001f600", "combining": "e\u0301"} {
			var path []any
			for _, step := range strings.Split(strings.NewReplacer("[", ".", "]", "").Replace(field), ".") {
				var n int
				if _, err := fmt.Sscan(step, &n); err == nil {
					path = append(path, n)
					continue
				}
				path = append(path, step)
			}
			g.add(path, fmt.Sprintf("%d characters, %s", most+1, what), quoted(string([]rune(strings.Repeat(character, most+1))[:most+1])))
		}
	}
}

// strictAboutNull are the routes that refuse null where the contract has an
// optional field absent only. To the others it is the same: clients that were
// not generated send that.
var strictAboutNull = []string{"/v1/tunnels", "/v1/user_profiles", "/v1/dreams"}

// mayBeEmpty are required fields whose text may be empty.
var mayBeEmpty = []any{"content"}

// badBodies are all that can be wrong with a form.
func (c *contract) badBodies(s *site, f form) []bad {
	s.t.Helper()
	method, path, _ := strings.Cut(f.route, " ")
	body := c.Paths[path][strings.ToLower(method)].RequestBody.Content["application/json"].Schema
	g := generator{contract: c, t: s.t, base: parse(s.t, s.fill(f.body))}
	g.forgivesNull = !slices.ContainsFunc(strictAboutNull, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
	g.visit(nil, body, g.base, true)
	g.limited(f)
	slices.SortFunc(g.all, func(a, b bad) int { return strings.Compare(a.what+a.body, b.what+b.body) })
	return g.all
}

// every is every how manieth case a database gets.
func every(t *testing.T) int {
	if strings.HasSuffix(t.Name(), "/postgres") {
		return 9
	}
	return 1
}

// TestGeneratedBodies makes, of every request with a body that the contract
// has, every kind of mistake in every place, and has each refused with the name
// of the field, and without a trace.
func TestGeneratedBodies(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d)
		s := b.site()
		made, step, before := 0, every(t), s.state()
		for _, f := range forms {
			method, path, _ := strings.Cut(s.fill(f.route), " ")
			for i, m := range c.badBodies(s, f) {
				if i%step != 0 {
					continue
				}
				made++
				a := b.do(b.key, method, path, m.body)
				if problem := refusedWell(a, m); problem != "" {
					t.Errorf("%s with %s: %s: %d %.300s", f.route, m.what, problem, a.status, a.body)
				}
			}
			before = s.unchanged("bad bodies of "+f.route, before)
		}
		t.Logf("%d bad bodies", made)
		if step == 1 && made < 5000 {
			t.Errorf("only %d bad bodies were made", made)
		}
	})
}

// unchanged checks that the state is what it was before, and returns it.
func (s *site) unchanged(what, before string) string {
	s.t.Helper()
	after := s.state()
	if after != before {
		s.t.Errorf("%s changed\n%s\nto\n%s", what, before, after)
	}
	return after
}

// refusedWell tells what is wrong with a refusal; "" for nothing.
func refusedWell(a answer, m bad) string {
	e := a.failure()
	switch {
	case a.status < 400:
		return "accepted"
	case a.status >= 500:
		return "the server failed"
	case e.Message == "" || e.Message == "no error":
		return "no message"
	case a.status == 404 && e.Type == api.ErrNotFound && m.absent:
		return ""
	case a.status != 400 || e.Type != api.ErrInvalidRequest:
		return "not a 400"
	case !strings.Contains(e.Message, m.field):
		return "does not name " + m.field
	}
	return ""
}

// hostileIDs are no ids of anything.
var hostileIDs = map[string]string{
	"a NUL": "a%00b", "no UTF-8": "%ff", "an overlong slash": "%c0%af", "half a surrogate pair": "%ed%a0%80", "an absent id": "no-such-id", "SQL": "%27%20OR%201=1--", "a wildcard": "%25", "a long one": strings.Repeat("x", 4000),
	"another kind's": "", "in capitals": "", "with a blank": "", "with a zero-width space": "", "with a path in it": "..%2f..%2fetc", "right to left": "%e2%80%ae%d7%90",
	"braces": "%7Bagent_id%7D", "a line break": "a%0d%0ab", "a format": "%25s%25n", "a star": "*", "an emoji": "%f0%9f%98%80",
}

// TestHostileIDs puts ids that no object has into every place of every path.
func TestHostileIDs(t *testing.T) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d)
		s := b.site()
		made, step, n, before := 0, every(t), 0, s.state()
		for _, rt := range (&server{}).routes() {
			for _, name := range parameter.FindAllStringSubmatch(rt.path, -1) {
				for _, what := range slices.Sorted(maps.Keys(hostileIDs)) {
					if n++; n%step != 0 {
						continue
					}
					made++
					id := hostileIDs[what]
					switch what {
					case "another kind's":
						id = s.key.ID
						if name[1] == "key_id" {
							id = s.agent.ID
						}
					case "in capitals":
						id = strings.ToUpper(s.ids[name[1]])
					case "with a blank":
						id = s.ids[name[1]] + "%20"
					case "with a zero-width space":
						id = s.ids[name[1]] + "%e2%80%8b"
					}
					elsewhere := rt
					elsewhere.path = strings.Replace(rt.path, name[0], id, 1)
					a := s.askWith(verdicts[rt.method+" "+rt.path], s.keyFor(rt), elsewhere)
					if e := a.failure(); a.status != 400 && a.status != 404 || e.Message == "no error" || e.Message == "" ||
						e.Type != map[int]api.ErrorType{400: api.ErrInvalidRequest, 404: api.ErrNotFound}[a.status] {
						t.Errorf("%s %s with %s as %s: %d %.300s", rt.method, rt.path, what, name[1], a.status, a.body)
					}
				}
			}
			if rt.method != "GET" {
				before = s.unchanged("bad ids in "+rt.method+" "+rt.path, before)
			}
		}
		s.unchanged("bad ids in what is read", before)
		t.Logf("%d bad ids", made)
	})
}

// keyFor is a credential that a route takes.
func (s *site) keyFor(rt route) string {
	switch v := verdicts[rt.method+" "+rt.path]; {
	case v.apiKey != 403:
		return s.brain.key
	case v.envKey != 403:
		return s.key.Key
	}
	return s.token
}

// badValues are what a parameter cannot be, by its schema.
func (c *contract) badValues(p parameterOf) []string {
	all := []string{"%00", "a%00b", "%ff", "%c0%80", "%ed%a0%80"}
	if p.Name == "page" {
		return append(all, "x", "e30", "bnVsbA", "W10", "AAAA", "%7B%7D", "eyJsIjoibm9uZSJ9", "eyJsIjoiYWdlbnRzIiwiaSI6Nn0", strings.Repeat("x", 5000))
	}
	switch types := c.takes(p.Schema); {
	case slices.Contains(open, p.Name):
	case types["array"]:
		for _, v := range c.variants(p.Schema) {
			for _, word := range c.choices(v.Items) {
				return append(all, "no-such-word", otherCase(word), word+"%20", word+"%e2%80%8b", "%20"+word, word+","+word)
			}
		}
	case types["number"]:
		all = append(all, "x", "-1", "1.5", "1e3", "0x10", "%2B1", "%201", "99999999999999999999", "-9223372036854775809", "NaN", "1,000", "%D9%A1", "null")
		if p.Name != "version" && p.Name != "agent_version" {
			all = append(all, "9223372036854775807")
		}
	case types["boolean"]:
		all = append(all, "maybe", "1", "0", "TRUE", "True", "yes", "null", "true%20")
	case p.Schema.Format == "date-time":
		all = append(all, "x", "monday", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "9999-12-31T23:59:59-10:00", "1767225600", "2026-01-01T25:00:00Z", "0000-00-00T00:00:00Z")
	default:
		for _, word := range c.choices(p.Schema) {
			all = append(all, "no-such-word", otherCase(word), word+"%20")
		}
	}
	return all
}

// open are parameters that take words which the server does not know: a client
// may be newer, and finds nothing.
var open = []string{"types[]"}

// TestBadParameters puts values that mean nothing into every parameter of every
// route, and cursors of other lists.
func TestBadParameters(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d)
		s := b.site()
		cursors := s.cursors()
		made, step, n, before := 0, every(t), 0, s.state()
		for _, rt := range (&server{}).routes() {
			for _, p := range c.Paths[rt.path][strings.ToLower(rt.method)].Parameters {
				if p.In != "query" || p.Schema == nil {
					continue
				}
				values := c.badValues(p)
				if p.Name == "page" {
					for path, cursor := range cursors {
						if path != rt.path {
							values = append(values, cursor)
						}
					}
				}
				slices.Sort(values)
				for _, value := range values {
					if n++; n%step != 0 {
						continue
					}
					made++
					a := b.do(s.keyFor(rt), rt.method, s.fill(rt.path)+"?"+url.QueryEscape(p.Name)+"="+value, nil)
					if e := a.failure(); a.status != 400 || e.Type != api.ErrInvalidRequest || !strings.HasPrefix(e.Message, strings.TrimSuffix(p.Name, "[]")) {
						t.Errorf("%s %s?%s=%s: %d %.300s", rt.method, rt.path, p.Name, value, a.status, a.body)
					}
				}
			}
			if rt.method != "GET" {
				before = s.unchanged("bad parameters of "+rt.method+" "+rt.path, before)
			}
		}
		s.unchanged("bad parameters of what is read", before)
		t.Logf("%d bad parameters", made)
	})
}

// cursors are good ones, by the path of their list; of lists that have no second
// page, as they would be.
func (s *site) cursors() map[string]string {
	s.t.Helper()
	s.brain.agent()
	page := ok[api.Page[object]](s.brain, s.brain.key, "GET", "/v1/agents?limit=1", nil)
	all := map[string]string{"/v1/agents": *page.NextPage}
	for path, list := range map[string]string{"/v1/environments": "environments", "/v1/tunnels": "tunnels", "/v1/files": "files", "/v1/sessions": "sessions desc"} {
		all[path] = *cursor{List: list, ID: "x"}.encode()
	}
	return all
}

// TestMangledCursors changes cursors bit by bit. What is made of them may still
// be one; but the server never fails.
func TestMangledCursors(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for path, good := range s.cursors() {
			for i := 0; i < len(good); i += every(t) {
				for _, with := range []string{"", "A", "_", "%00"} {
					a := b.do(b.key, "GET", path+"?page="+good[:i]+with+good[i+1:], nil)
					if a.status != 200 && (a.status != 400 || !strings.HasPrefix(a.failure().Message, "page:")) {
						t.Errorf("GET %s?page=%s%s%s: %d %s", path, good[:i], with, good[i+1:], a.status, a.body)
					}
				}
			}
		}
	})
}
