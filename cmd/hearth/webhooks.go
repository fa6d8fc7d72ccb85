package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

const webhooksPath = "v1/organizations/webhooks"

var webhookColumns = []column[api.WebhookEndpoint]{
	{"ID", func(e api.WebhookEndpoint) string { return e.ID }},
	{"URL", func(e api.WebhookEndpoint) string { return e.URL }},
	{"EVENTS", func(e api.WebhookEndpoint) string { return strconv.Itoa(len(e.EnabledEvents)) }},
	{"STATE", func(e api.WebhookEndpoint) string {
		if e.DisabledReason != "" {
			return e.DisabledReason
		}
		return e.State
	}},
}

var deliveryColumns = []column[api.WebhookDelivery]{
	{"ID", func(d api.WebhookDelivery) string { return d.ID }},
	{"EVENT", func(d api.WebhookDelivery) string { return d.EventType }},
	{"STATUS", func(d api.WebhookDelivery) string { return d.Status }},
	{"ATTEMPTS", func(d api.WebhookDelivery) string { return strconv.Itoa(len(d.Attempts)) }},
	{"CREATED", func(d api.WebhookDelivery) string { return since(d.CreatedAt) }},
	{"LAST", func(d api.WebhookDelivery) string {
		if len(d.Attempts) == 0 {
			return "-"
		}
		last := d.Attempts[len(d.Attempts)-1]
		if last.Error != "" {
			return last.Error
		}
		return strconv.Itoa(last.Status)
	}},
}

func newWebhooks() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "Have others told what happens, and see what became of it",
		Long: `An endpoint is an https:// address that is told what happens, signed as Standard
Webhooks. A delivery that is not answered with 2xx is tried again, for about
three hours. An endpoint that redirects, that is at an address the server does
not call, or that has failed for six hours, is disabled and says why.`,
		GroupID: "resource",
	}
	cmd.AddCommand(
		newWebhookList(), newGet("webhook", webhooksPath+"/", "whep_…", webhookColumns), newWebhookCreate(),
		newWebhookState("enable", api.WebhookEnabled, "Have an endpoint told again what happens from now on"),
		newWebhookState("disable", api.WebhookDisabled, "Have an endpoint told nothing any more"),
		newWebhookSecret(), newWebhookDelete(), newDeliveries(), newRedeliver(), newReplay(),
	)
	return cmd
}

func newWebhookList() *cobra.Command {
	return newCall("list", "List endpoints, newest first", "  hearth webhooks list",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			var page api.IDPage[api.WebhookEndpoint] // there are never more than a page holds
			if err := c.Do(cmd.Context(), http.MethodGet, webhooksPath+"?limit=100", nil, &page); err != nil {
				return err
			}
			return printAll(cmd, out, webhookColumns, page.Data)
		})
}

func newWebhookCreate() *cobra.Command {
	var (
		name   string
		events []string
	)
	cmd := newCall("create URL", "Make an endpoint and print its secret, once",
		"  hearth webhooks create https://ci.example.com/hooks --event session.status_idled > webhook.secret && chmod 600 webhook.secret\n  hearth webhooks create https://ops.example.com/hooks",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			if len(events) == 0 {
				events = api.WebhookEvents
			}
			var made api.NewWebhookEndpoint
			body := map[string]any{"url": args[0], "name": name, "enabled_events": events}
			if err := c.Do(cmd.Context(), http.MethodPost, webhooksPath, body, &made); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), made)
			}
			return printSecret(cmd, made.ID, made.SigningSecret)
		})
	cmd.Flags().StringVar(&name, "name", "", "what it is called in lists")
	cmd.Flags().StringArrayVar(&events, "event", nil, "a type of event to be told of; may be repeated (default: all)")
	cmd.Long = "Make an endpoint and print its secret, once. The types of events are:\n\n  " + strings.Join(api.WebhookEvents, "\n  ")
	return cmd
}

// printSecret prints a secret alone on standard output, so that it can go into a file.
func printSecret(cmd *cobra.Command, id, secret string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "endpoint %s; keep the secret now, it is not shown again\n", id)
	fmt.Fprintln(cmd.OutOrStdout(), secret)
	return nil
}

func webhookPath(id string) string { return webhooksPath + "/" + url.PathEscape(id) }

func newWebhookState(verb, state, short string) *cobra.Command {
	return newCall(verb+" ID", short, "  hearth webhooks "+verb+" whep_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var e api.WebhookEndpoint
			if err := c.Do(cmd.Context(), http.MethodPost, webhookPath(args[0]), map[string]any{"state": state}, &e); err != nil {
				return err
			}
			return printOne(cmd, out, webhookColumns, e)
		})
}

func newWebhookSecret() *cobra.Command {
	return newCall("rotate-secret ID", "Replace an endpoint's secret, at once, and print the new one, once", "  hearth webhooks rotate-secret whep_… > webhook.secret",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var made api.WebhookSigningSecret
			if err := c.Do(cmd.Context(), http.MethodPost, webhookPath(args[0])+"/regenerate_signing_secret", nil, &made); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), made)
			}
			return printSecret(cmd, args[0], made.SigningSecret)
		})
}

func newWebhookDelete() *cobra.Command {
	return newCall("delete ID", "Delete an endpoint and the log of what was delivered to it", "  hearth webhooks delete whep_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var gone api.Deleted
			if err := c.Do(cmd.Context(), http.MethodDelete, webhookPath(args[0]), nil, &gone); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), gone)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", gone.ID)
			return nil
		})
}

func newDeliveries() *cobra.Command {
	var (
		status string
		limit  int
	)
	cmd := newCall("deliveries ID", "List what was and is to be delivered to an endpoint, newest first",
		"  hearth webhooks deliveries whep_…\n  hearth webhooks deliveries whep_… --status failed -o json",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			query := url.Values{}
			if status != "" {
				query.Set("status", status)
			}
			list, err := listAll[api.WebhookDelivery](cmd, c, webhookPath(args[0])+"/deliveries", query, limit)
			if err != nil {
				return err
			}
			return printAll(cmd, out, deliveryColumns, list)
		})
	oneOf(cmd.Flags(), &status, "status", "", "list those that are pending, delivered, failed or canceled", api.DeliveryPending, api.DeliveryDelivered, api.DeliveryFailed, api.DeliveryCanceled)
	cmd.Flags().IntVar(&limit, "limit", 0, "list at most this many (0: all)")
	return cmd
}

func newRedeliver() *cobra.Command {
	return newCall("redeliver ID DELIVERY", "Deliver an event once more", "  hearth webhooks redeliver whep_… whd_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var made api.WebhookDelivery
			path := webhookPath(args[0]) + "/deliveries/" + url.PathEscape(args[1]) + "/redeliver"
			if err := c.Do(cmd.Context(), http.MethodPost, path, nil, &made); err != nil {
				return err
			}
			return printOne(cmd, out, deliveryColumns, made)
		})
}

func newReplay() *cobra.Command {
	var (
		last      time.Duration
		delivered bool
	)
	cmd := newCall("replay ID", "Deliver what an endpoint has missed in the time before now", "  hearth webhooks replay whep_… --last 24h",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var done api.WebhookReplay
			body := map[string]any{"from": time.Now().Add(-last).UTC(), "include_delivered": delivered}
			if err := c.Do(cmd.Context(), http.MethodPost, webhookPath(args[0])+"/deliveries/replay", body, &done); err != nil {
				return err
			}
			if out.format == "json" {
				return printJSON(cmd.OutOrStdout(), done)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "deliveries made: %d\n", done.Deliveries)
			return nil
		})
	cmd.Long = `Deliver what an endpoint has missed in the time before now: what failed, what
was canceled, and what happened while it was disabled. Events are kept for 30
days.`
	cmd.Flags().DurationVar(&last, "last", time.Hour, "how far to go back")
	cmd.Flags().BoolVar(&delivered, "delivered", false, "deliver again what was delivered, too")
	return cmd
}
