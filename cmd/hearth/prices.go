package main

import (
	"github.com/spf13/cobra"

	"hearth/internal/brain/price"
)

const pricesHelp = `Print the list prices that are built in, as the JSON that --prices takes.

Prices are in dollars for a million tokens: input, output, cache_write_5m,
cache_write_1h and cache_read. The last three default to 1.25, 2 and 0.1 times
input. "fast" holds the prices of speed fast, and "long" those of requests whose
prompt has more tokens than "over". A name stands for its dated versions too.

The list_cost of a session, and what its budget is held against, come from this
table. To change it, edit a copy and give it to the server with --prices. It
replaces the built-in one as a whole. A model of your own may cost 0.`

func newPrices() *cobra.Command {
	cmd := &cobra.Command{
		Use: "prices", Short: "Print what models cost at list price", Long: pricesHelp, GroupID: "resource",
		Example: `  hearth prices > prices.json
  hearth prices --check prices.json
  hearth serve --prices prices.json`,
		Args: cobra.NoArgs,
	}
	check := cmd.Flags().String("check", "", "print nothing, and say whether this file is such a table")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *check != "" {
			_, err := price.Load(*check)
			return err
		}
		_, err := cmd.OutOrStdout().Write(price.Embedded)
		return err
	}
	return cmd
}
