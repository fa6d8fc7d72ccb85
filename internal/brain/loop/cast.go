package loop

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/session"
)

// castTool is a tool with which a coordinator calls on the agents of its
// roster. It answers in the transaction that logs the call.
type castTool func(c session.Cast, input json.RawMessage) (answer string, failed bool, err error)

// calledOn tells an agent that it works for another.
const calledOn = "Another agent has called on you and shares your sandbox with you and with others. What you say last in your turn is your answer to it; it sees nothing else of what you do."

// advice is the system prompt of an advisor.
const advice = "You advise an agent that is at work on a task. You see only what it tells you. Say what you would do in its place, and why; be brief."

// addCast offers a coordinator the tools to call on its roster.
func (t *toolset) addCast(a api.SessionAgent) error {
	roster, err := session.Roster(a)
	if err != nil || len(roster) == 0 {
		return err
	}
	var names strings.Builder
	for _, one := range roster {
		fmt.Fprintf(&names, "\n- %s", describe(one))
	}
	t.cast = map[string]castTool{api.ToolListAgents: listAgents, api.ToolSendToAgent: sendToAgent}
	// A session may have been given custom tools of these names.
	t.offered = slices.DeleteFunc(t.offered, func(o model.Tool) bool { return t.cast[o.Name] != nil })
	for name := range t.cast {
		delete(t.custom, name)
	}
	t.offered = append(t.offered,
		model.Tool{
			Name:        api.ToolListAgents,
			Description: "List the agents you may call on, and the threads in which they work or have worked for you.",
			InputSchema: schema(""),
		},
		model.Tool{
			Name:        api.ToolSendToAgent,
			Description: "Send a message to an agent, which begins to work on it at once, beside you and in the same sandbox. It knows only what you tell it. Its answer comes to you later, as a message, when it has finished: end your turn when you have nothing else to do until then. Each message to an agent by its name begins a new thread; name a thread to go on in it. The agents are:" + names.String(),
			InputSchema: schema(`"agent":{"type":"string","description":"Name or id of the agent, to begin a new thread."},"thread_id":{"type":"string","description":"A thread to go on in, instead of an agent."},"message":{"type":"string","description":"What to tell it."}`, "message"),
		})
	return nil
}

func describe(m session.Member) string {
	text := m.Name
	if m.ID != "" {
		text += " (" + m.ID + ")"
	}
	if m.Description != "" {
		text += ": " + m.Description
	}
	return text
}

func listAgents(c session.Cast, _ json.RawMessage) (string, bool, error) {
	roster, err := c.Members()
	if err != nil {
		return "", false, err
	}
	threads, err := c.Threads()
	if err != nil {
		return "", false, err
	}
	var list strings.Builder
	list.WriteString("Agents:\n")
	for _, one := range roster {
		fmt.Fprintf(&list, "- %s\n", describe(one))
	}
	if len(threads) == 0 {
		list.WriteString("No threads yet.")
		return list.String(), false, nil
	}
	list.WriteString("Threads:\n")
	for _, one := range threads {
		status := string(one.Status)
		if one.Waits {
			status = "waiting for an answer from outside"
		}
		fmt.Fprintf(&list, "- %s of %s: %s\n", one.ID, one.Name, status)
	}
	return list.String(), false, nil
}

// sendToAgent begins a thread, or goes on in one.
func sendToAgent(c session.Cast, input json.RawMessage) (string, bool, error) {
	var in struct {
		Agent    string `json:"agent"`
		ThreadID string `json:"thread_id"`
		Message  string `json:"message"`
	}
	if err := json.Unmarshal(input, &in); err != nil {
		return "agent, thread_id and message must be texts.", true, nil
	}
	switch {
	case strings.TrimSpace(in.Message) == "":
		return "message must not be empty.", true, nil
	case in.ThreadID != "" && in.Agent != "":
		return "Give either agent, for a new thread, or thread_id, to go on in one.", true, nil
	case in.ThreadID != "":
		name, err := c.Send(in.ThreadID, in.Message)
		return sent(name, in.ThreadID, err)
	}
	roster, err := c.Members()
	if err != nil {
		return "", false, err
	}
	member, problem := find(roster, in.Agent)
	if problem != "" {
		return problem, true, nil
	}
	id, err := c.Start(member, in.Message)
	return sent(member.Name, id, err)
}

func sent(name, threadID string, err error) (string, bool, error) {
	switch {
	case err == nil:
		return fmt.Sprintf("Sent to %s, thread %s. Its answer will come as a message.", name, threadID), false, nil
	case errors.Is(err, session.ErrThreadOver):
		return fmt.Sprintf("There is no thread %.80q, or it is over.", threadID), true, nil
	case errors.Is(err, session.ErrTooMany):
		return fmt.Sprintf("%d threads are at work, which is as many as may be at once. Wait for the answer of one.", session.MaxThreads), true, nil
	case errors.Is(err, session.ErrInterrupted):
		return "The user has interrupted; nothing was sent.", true, nil
	}
	return "", false, err
}

// find finds an agent of a roster by its name or id, or says why not.
func find(roster []session.Member, wanted string) (found session.Member, problem string) {
	var names []string
	matches := 0
	for _, one := range roster {
		names = append(names, describe(one))
		if wanted != "" && (one.Name == wanted || one.ID == wanted) {
			found = one
			matches++
		}
	}
	switch matches {
	case 1:
		return found, ""
	case 0:
		return found, fmt.Sprintf("There is no agent %.80q. The agents are:\n%s", wanted, strings.Join(names, "\n"))
	}
	return found, fmt.Sprintf("Several agents are called %.80q; name one by its id:\n%s", wanted, strings.Join(names, "\n"))
}
