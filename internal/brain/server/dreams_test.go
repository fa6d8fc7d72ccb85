package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

// anyMemory stands for memory stores: there is one of each id that looks like it.
type anyMemory struct{}

func (anyMemory) Resource(_ context.Context, _, id string) (api.MemoryResource, error) {
	if !strings.HasPrefix(id, "memstore_") {
		return api.MemoryResource{}, api.NotFound("memory store", id)
	}
	return api.MemoryResource{}, nil
}

const dreamBody = `{"inputs":[{"type":"memory_store","memory_store_id":"memstore_1"},{"type":"sessions","session_ids":["{session_id}"]}],"model":{"id":"m","speed":"standard"},
	"instructions":"i","output_behavior":{"type":"create_new"}}`

var dreamVerdicts = map[string]verdict{
	"POST /v1/dreams":                    forRole(auth.RoleDeveloper, dreamBody),
	"GET /v1/dreams":                     forRole(auth.RoleViewer, ""),
	"GET /v1/dreams/{dream_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/dreams/{dream_id}/cancel":  forRole(auth.RoleDeveloper, ""),
	"POST /v1/dreams/{dream_id}/archive": forRole(auth.RoleDeveloper, ""),
}

var dreamForms = []form{
	{"POST /v1/dreams", dreamBody, map[string]string{
		"inputs": "array required", "inputs[0]": "object", "inputs[0].type": "string required choice", "inputs[0].memory_store_id": "string required choice",
		"inputs[1].type": "string required choice", "inputs[1].session_ids": "array required", "inputs[1].session_ids[0]": "string choice",
		"model": "object string required", "model.id": "string required max 256", "model.speed": "string null choice",
		"instructions": "string null max 4096", "output_behavior": "object", "output_behavior.type": "string required choice"}},
}

// addDream makes a dream that has been canceled, so that it can be archived.
func (s *site) addDream() {
	s.t.Helper()
	d := ok[api.Dream](s.brain, s.brain.key, "POST", "/v1/dreams", s.fill(dreamBody))
	s.ids["dream_id"] = ok[api.Dream](s.brain, s.brain.key, "POST", "/v1/dreams/"+d.ID+"/cancel", nil).ID
}

func dreamOf(store string, sessions ...string) object {
	return object{"model": "m", "inputs": []object{{"type": "sessions", "session_ids": sessions}, {"type": "memory_store", "memory_store_id": store}}}
}

func TestDreamLife(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		other := b.session(s.agent.ID, s.env.ID)
		made := ok[api.Dream](b, b.key, "POST", "/v1/dreams", dreamOf("memstore_1", other.ID, s.session.ID))
		sorted := []string{s.session.ID, other.ID}
		slices.Sort(sorted)
		if made.Status != api.DreamPending || len(made.Outputs) != 0 || made.Model.ID != "m" || made.OutputBehavior.Type != api.DreamCreatesNew ||
			string(made.Inputs[1]) != fmt.Sprintf(`{"session_ids":["%s","%s"],"type":"sessions"}`, sorted[0], sorted[1]) {
			t.Errorf("made %+v", made)
		}
		path := "/v1/dreams/" + made.ID
		if a := b.do(b.key, "POST", path+"/archive", nil); a.status != 400 || !strings.Contains(a.failure().Message, "cancel it first") {
			t.Errorf("archived while it waits: %d %s", a.status, a.body)
		}
		for range 2 {
			if d := ok[api.Dream](b, b.key, "POST", path+"/cancel", nil); d.Status != api.DreamCanceled || d.EndedAt == nil || d.Error != nil {
				t.Errorf("canceled: %+v", d)
			}
		}
		for range 2 {
			if d := ok[api.Dream](b, b.key, "POST", path+"/archive", nil); d.ArchivedAt == nil {
				t.Errorf("archived: %+v", d)
			}
		}
		ids := func(query string) (all []string) {
			for _, d := range ok[api.Page[api.Dream]](b, b.key, "GET", "/v1/dreams"+query, nil).Data {
				all = append(all, d.ID)
			}
			return all
		}
		day := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		for query, want := range map[string][]string{
			"":                                       {s.ids["dream_id"]},
			"?include_archived=true":                 {made.ID, s.ids["dream_id"]},
			"?statuses[]=canceled&statuses[]=failed": {s.ids["dream_id"]},
			"?statuses=pending":                      nil,
			"?created_at[gt]=" + day:                 nil,
			"?created_at[lt]=" + day:                 {s.ids["dream_id"]},
		} {
			if got := ids(query); !slices.Equal(got, want) {
				t.Errorf("listed with %q: %v, want %v", query, got, want)
			}
		}
	})
}

func TestDreamsThatCannotBe(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		updating := dreamOf("memstore_2", s.session.ID)
		updating["output_behavior"] = object{"type": "update_existing", "memory_store_id": "memstore_2"}
		first := ok[api.Dream](b, b.key, "POST", "/v1/dreams", updating)
		before := s.state()
		change := func(field string, v any) object {
			body := dreamOf("memstore_1", s.session.ID)
			body[field] = v
			return body
		}
		many := make([]string, 101)
		for i := range many {
			many[i] = fmt.Sprint("sesn_", i)
		}
		sessions, store := object{"type": "sessions", "session_ids": []string{s.session.ID}}, object{"type": "memory_store", "memory_store_id": "memstore_1"}
		for _, c := range []struct {
			body   object
			status int
			want   string
		}{
			{updating, 409, "output_behavior: dream " + first.ID},
			{dreamOf("memstore_1", many...), 400, "inputs[0].session_ids: has 101 ids"},
			{dreamOf("memstore_1"), 400, "inputs[0].session_ids"},
			{dreamOf("memstore_1", s.session.ID, s.session.ID), 400, "inputs[0].session_ids: has"},
			{dreamOf("memstore_1", ""), 400, "inputs[0].session_ids"},
			{dreamOf("memstore_1", "sesn_none"), 404, "session"},
			{dreamOf("none", s.session.ID), 404, "memory store"},
			{change("inputs", []object{sessions}), 400, "inputs: "},
			{change("inputs", []object{store}), 400, "inputs: "},
			{change("inputs", []object{sessions, store, store}), 400, "inputs[2].type: memory_store is given twice"},
			{change("model", object{"id": "m", "speed": "fast"}), 400, "model.speed: "},
			{change("model", ""), 400, "model.id: "},
			{change("instructions", ""), 400, "instructions: "},
			{change("output_behavior", object{"type": "update_existing", "memory_store_id": "memstore_2"}), 400, "output_behavior.memory_store_id: "},
			{change("output_behavior", object{"type": "update_existing"}), 400, "output_behavior.memory_store_id: "},
		} {
			if a := b.do(b.key, "POST", "/v1/dreams", c.body); a.status != c.status || !strings.HasPrefix(a.failure().Message, c.want) {
				t.Errorf("%v: %d %s, want %d %s", c.body, a.status, a.body, c.status, c.want)
			}
		}
		if s.state() != before {
			t.Error("what was refused has changed something")
		}
		ok[api.Dream](b, b.key, "POST", "/v1/dreams/"+first.ID+"/cancel", nil)
		ok[api.Dream](b, b.key, "POST", "/v1/dreams", updating)
	})
}
