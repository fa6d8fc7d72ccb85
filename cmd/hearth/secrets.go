package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hearth/internal/brain/deployment"
	"hearth/internal/brain/seal"
	"hearth/internal/brain/session"
	"hearth/internal/brain/tunnel"
	"hearth/internal/brain/vault"
	"hearth/internal/brain/webhook"
	"hearth/internal/db"
)

const rotateHelp = `Make a new data key and seal with it every secret that clients have handed over:
credentials of vaults, tokens of repositories and signing secrets of webhooks. With --new-secrets-key, another
master key wraps the data keys from then on.

It works on the database, not through a server. With SQLite, end the server first.
With Postgres, servers go on; each seals with the data key it has started with until
its next start, which with --new-secrets-key needs the new master key.

It can be ended and run again at any time. Once it has said that data keys are
wrapped by the new master key, run it again with that one as --secrets-key. What
was sealed before stays readable throughout; old data keys are kept, since backups
and what other parts have sealed may need them.`

func newSecrets() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "secrets",
		Short:   "Rotate the keys that encrypt secrets at rest",
		GroupID: "daemon",
		Long: `Secrets that clients hand over are sealed with a data key, which is kept in the
database, wrapped by a master key, which is not: --secrets-key names a file, a
variable, or a key at a key manager.`,
	}
	var r rotation
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Seal all secrets anew, with a new master key if one is given",
		Long:  rotateHelp,
		Example: `  hearth secrets rotate
  hearth secrets rotate --new-secrets-key hashivault://hearth
  hearth secrets rotate --secrets-key old-key --new-secrets-key new-key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd.Context(), func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) })
		},
	}
	rotate.Flags().StringVar(&r.data, "data", defaultDataDir(), "the server's data directory")
	rotate.Flags().StringVar(&r.databaseURL, "database-url", "", "postgres://… (default: SQLite in --data); put one with a password into HEARTH_DATABASE_URL")
	rotate.Flags().StringVar(&r.from, "secrets-key", "", "the master key so far, as hearth serve has it (default: secrets-key in --data)")
	rotate.Flags().StringVar(&r.to, "new-secrets-key", "", "the master key from now on: a file, env:NAME, or a key manager's awskms://…, gcpkms://…, azurekeyvault://… or hashivault://… (default: it stays)")
	cmd.AddCommand(rotate)
	return cmd
}

// rotation is what a rotation works on.
type rotation struct{ data, databaseURL, from, to string }

func (r rotation) run(ctx context.Context, say func(format string, args ...any)) (err error) {
	alone := r.databaseURL == ""
	if alone {
		path := filepath.Join(r.data, "hearth.db")
		if _, err := os.Stat(path); err != nil {
			return usageError("--data: there is no server's database: %w", err)
		}
		lock, err := lockData(r.data)
		if err != nil {
			return err
		}
		defer lock.Close()
		r.databaseURL = "sqlite://" + path
	}
	database, err := db.Open(ctx, db.Config{URL: r.databaseURL})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	master, err := seal.OpenMaster(ctx, cmp.Or(r.from, filepath.Join(r.data, "secrets-key")))
	if err != nil {
		return usageError("--secrets-key: %w", err)
	}
	sealer, err := seal.New(ctx, database, master)
	if err != nil {
		return err
	}
	if r.to != "" {
		fresh, err := seal.OpenMaster(ctx, r.to)
		if err != nil {
			return usageError("--new-secrets-key: %w", err)
		}
		wrapped, err := sealer.Rewrap(ctx, fresh)
		if err != nil {
			return err
		}
		say("data keys wrapped by the new master key: %d; start servers with it, as --secrets-key", wrapped)
	}
	if err := sealer.Rotate(ctx); err != nil {
		return err
	}
	n, err := reseal(ctx, database, sealer, alone)
	if err != nil {
		return err
	}
	say("credentials and tokens sealed anew, with a new data key: %d", n)
	return nil
}

// reseal has each package that keeps sealed secrets seal them anew.
func reseal(ctx context.Context, database *db.DB, sealer *seal.Sealer, alone bool) (int, error) {
	vaults, err := vault.New(ctx, vault.Config{DB: database, Sealer: sealer, Client: http.DefaultClient})
	if err != nil {
		return 0, err
	}
	credentials, err := vaults.Reseal(ctx)
	if err != nil {
		return 0, err
	}
	sessions, err := session.New(ctx, session.Config{DB: database, Alone: alone})
	if err != nil {
		return 0, err
	}
	hooks, err := webhook.New(ctx, webhook.Config{DB: database, Sealer: sealer})
	if err != nil {
		return 0, err
	}
	deployments, err := deployment.New(ctx, deployment.Config{DB: database, Sealer: sealer})
	if err != nil {
		return 0, err
	}
	tunnels, err := tunnel.New(ctx, tunnel.Config{DB: database, Sealer: sealer})
	if err != nil {
		return 0, err
	}
	changed := credentials
	for _, all := range []func(context.Context, func(context.Context, string, string) (string, error)) (int, error){sessions.ResealTokens, hooks.Reseal, deployments.Reseal, tunnels.Reseal} {
		n, err := all(ctx, sealer.Anew)
		if changed += n; err != nil {
			return changed, err
		}
	}
	return changed, nil
}
