package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hearth/api"
	"hearth/client"
)

func registerBudget(flags *pflag.FlagSet, budget *string) {
	flags.StringVar(budget, "budget", "", "the list price, in dollars, at which the session stops asking the model, such as 2.50; it can be raised later, and not added")
}

// addBudget puts a budget given in dollars into the body of a request.
func addBudget(body map[string]any, amount string) error {
	if amount == "" {
		return nil
	}
	cents, ok := cents(amount)
	if !ok {
		return usageError("--budget: %q is not an amount in dollars such as 2.50", amount)
	}
	body["budget"] = budgetOf(cents)
	return nil
}

func budgetOf(cents string) api.Budget {
	return api.Budget{Type: "limit", MaxListCost: api.Money{Amount: cents, Currency: "USD"}}
}

// cents turns dollars, with none or two decimals, into cents.
func cents(amount string) (string, bool) {
	whole, part, decimals := strings.Cut(strings.TrimPrefix(amount, "$"), ".")
	if !decimals {
		part = "00"
	}
	digits := whole + part
	if whole == "" || len(part) != 2 || strings.Trim(digits, "0123456789") != "" {
		return "", false
	}
	digits = strings.TrimLeft(digits, "0")
	return digits, digits != ""
}

// dollars is an amount of cents for people; "" for none.
func dollars(cents string) string {
	if cents == "" {
		return ""
	}
	cents = strings.Repeat("0", max(0, 3-len(cents))) + cents
	return "$" + cents[:len(cents)-2] + "." + cents[len(cents)-2:]
}

func newSessionBudget() *cobra.Command {
	return newSessionCommand("budget ID DOLLARS|none", "Change or remove a session's budget; a turn it had stopped goes on",
		"  hearth sessions budget sesn_… 5.00\n  hearth sessions budget sesn_… none",
		func(ctx context.Context, c *client.Client, args []string) error {
			body := map[string]any{"budget": nil}
			if args[1] != "none" {
				cents, ok := cents(args[1])
				if !ok {
					return usageError("%q is neither an amount in dollars such as 5.00 nor none", args[1])
				}
				body["budget"] = budgetOf(cents)
			}
			return c.Do(ctx, http.MethodPost, "v1/sessions/"+url.PathEscape(args[0]), body, nil)
		})
}
