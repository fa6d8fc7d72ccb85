package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// capture waits until a file matches, and sets a variable to the first group.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "capture variable pattern file")
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	path := ts.MkAbs(args[2])
	await(ts, fmt.Sprintf("%q in %s", args[1], path), func() bool {
		raw, err := os.ReadFile(path)
		found := pattern.FindSubmatch(raw)
		if err != nil || len(found) < 2 {
			return false
		}
		ts.Setenv(args[0], string(found[1]))
		return true
	})
}

// answers makes a request that must be answered with a status, and keeps the
// head and body of the answer in the file answer.
func answers(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 3 || len(args) == 4), "answers status method url [body]")
	r, err := http.NewRequest(args[1], args[2], strings.NewReader(strings.Join(args[3:], "")))
	ts.Check(err)
	answered(ts, args[0], r)
}

// sendWebhook delivers a signed webhook. It is signed now, or now and a duration;
// any other time is only claimed. A body @n has n bytes.
func sendWebhook(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 6, "webhook status url secret id time body")
	body := args[5]
	if size, ok := strings.CutPrefix(body, "@"); ok {
		n, err := strconv.Atoi(size)
		ts.Check(err)
		body = strings.Repeat("x", n)
	}
	r, err := http.NewRequest(http.MethodPost, args[1], strings.NewReader(body))
	ts.Check(err)
	at := time.Now()
	claimed := args[4]
	if away, ok := strings.CutPrefix(claimed, "now"); ok {
		if away != "" {
			d, err := time.ParseDuration(away)
			ts.Check(err)
			at = at.Add(d)
		}
		claimed = strconv.FormatInt(at.Unix(), 10)
	}
	signer, err := standardwebhooks.NewWebhook(args[2])
	ts.Check(err)
	signature, err := signer.Sign(args[3], at, []byte(body))
	ts.Check(err)
	r.Header.Set(standardwebhooks.HeaderWebhookID, args[3])
	r.Header.Set(standardwebhooks.HeaderWebhookTimestamp, claimed)
	r.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	answered(ts, args[0], r)
}

func answered(ts *testscript.TestScript, status string, r *http.Request) {
	response, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	ts.Check(err)
	if strconv.Itoa(response.StatusCode) != status {
		ts.Fatalf("%s %s: %s, want %s: %s", r.Method, r.URL, response.Status, status, raw)
	}
	head := &strings.Builder{}
	ts.Check(response.Header.Write(head))
	ts.Check(os.WriteFile(ts.MkAbs("answer"), append([]byte(head.String()+"\n"), raw...), 0o600))
}
