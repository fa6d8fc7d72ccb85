package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hearth/api"
	"hearth/client"
)

var tunnelColumns = []column[api.Tunnel]{
	{"ID", func(t api.Tunnel) string { return t.ID }},
	{"DOMAIN", func(t api.Tunnel) string { return t.Domain }},
	{"NAME", func(t api.Tunnel) string { return orDash(deref(t.DisplayName)) }},
	{"STATE", func(t api.Tunnel) string { return archivedState(t.ArchivedAt) }},
	{"CREATED", func(t api.Tunnel) string { return since(t.CreatedAt) }},
}

var certificateColumns = []column[api.TunnelCertificate]{
	{"ID", func(c api.TunnelCertificate) string { return c.ID }},
	{"FINGERPRINT", func(c api.TunnelCertificate) string { return c.Fingerprint }},
	{"EXPIRES", func(c api.TunnelCertificate) string {
		if c.ExpiresAt == nil {
			return "never"
		}
		return c.ExpiresAt.Local().Format("2006-01-02")
	}},
	{"STATE", func(c api.TunnelCertificate) string { return archivedState(c.ArchivedAt) }},
}

func archivedState(at *time.Time) string {
	if at != nil {
		return "archived"
	}
	return "active"
}

func newTunnels() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tunnels",
		Short: "List, create and archive tunnels, with their tokens and certificates",
		Long: `A tunnel is a way to MCP servers inside a network that this server cannot reach:
an MCP URL whose host is below the tunnel's domain goes through it.

  the token         lets the tunnel's connector in; keep it like a password
  the certificates  are the CAs that the far end must be signed by; without one
                    a tunnel takes no traffic, and two are for changing over

So far tunnels are kept, and nothing goes through them yet.`,
		GroupID: "resource",
	}
	cmd.AddCommand(
		newList("tunnels", "v1/tunnels", tunnelColumns), newGet("tunnel", "v1/tunnels/", "tnl_…", tunnelColumns),
		newTunnelCreate(), newTunnelArchive(), newTunnelToken(), newTunnelRotate(), newCertificates(),
	)
	return cmd
}

func newTunnelCreate() *cobra.Command {
	var name string
	cmd := newCall("create", "Create a tunnel", "  hearth tunnels create --name site-a",
		func(cmd *cobra.Command, c *client.Client, out output, _ []string) error {
			body := map[string]any{}
			if name != "" {
				body["display_name"] = name
			}
			var made api.Tunnel
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/tunnels", body, &made); err != nil {
				return err
			}
			return printOne(cmd, out, tunnelColumns, made)
		})
	cmd.Flags().StringVar(&name, "name", "", "what the tunnel is called in lists")
	return cmd
}

func newTunnelArchive() *cobra.Command {
	return newCall("archive ID", "End a tunnel for good, with its token and its certificates", "  hearth tunnels archive tnl_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var gone api.Tunnel
			if err := c.Do(cmd.Context(), http.MethodPost, "v1/tunnels/"+url.PathEscape(args[0])+"/archive", nil, &gone); err != nil {
				return err
			}
			return printOne(cmd, out, tunnelColumns, gone)
		})
}

func newTunnelToken() *cobra.Command {
	return newCall("token ID", "Print a tunnel's token", "  hearth tunnels token tnl_… > tunnel.token && chmod 600 tunnel.token",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			return printToken(cmd, c, out, args[0], "reveal", nil)
		})
}

func newTunnelRotate() *cobra.Command {
	var reason string
	cmd := newCall("rotate ID", "Give a tunnel another token, and print it",
		"  hearth tunnels rotate tnl_… --reason 'the old one was in a log' > tunnel.token",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			body := map[string]any{}
			if reason != "" {
				body["reason"] = reason
			}
			return printToken(cmd, c, out, args[0], "rotate", body)
		})
	cmd.Long = `Give a tunnel another token, and print it. The old one lets nobody in from then
on; connections that it has let in stay.`
	cmd.Flags().StringVar(&reason, "reason", "", "why, which the server keeps")
	return cmd
}

func printToken(cmd *cobra.Command, c *client.Client, out output, id, verb string, body any) error {
	var token api.TunnelToken
	if err := c.Do(cmd.Context(), http.MethodPost, "v1/tunnels/"+url.PathEscape(id)+"/"+verb+"_token", body, &token); err != nil {
		return err
	}
	if out.format == "json" {
		return printJSON(cmd.OutOrStdout(), token)
	}
	// The token alone on standard output, so that it can go into a file.
	fmt.Fprintf(cmd.ErrOrStderr(), "token %s of %s\n", token.ID, id)
	fmt.Fprintln(cmd.OutOrStdout(), token.TunnelToken)
	return nil
}

func newCertificates() *cobra.Command {
	cmd := &cobra.Command{Use: "certificates", Aliases: []string{"certs"}, Short: "List, add and archive the CA certificates of a tunnel"}
	cmd.AddCommand(newCertificateList(), newCertificateAdd(), newCertificateArchive())
	return cmd
}

func certificatesOf(tunnelID string) string {
	return "v1/tunnels/" + url.PathEscape(tunnelID) + "/certificates"
}

func newCertificateList() *cobra.Command {
	var archived bool
	cmd := newCall("list TUNNEL", "List the certificates of a tunnel, newest first", "  hearth tunnels certificates list tnl_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			query := url.Values{}
			if archived {
				query.Set("include_archived", "true")
			}
			list, err := listAll[api.TunnelCertificate](cmd, c, certificatesOf(args[0]), query, 0)
			if err != nil {
				return err
			}
			return printAll(cmd, out, certificateColumns, list)
		})
	cmd.Flags().BoolVar(&archived, "archived", false, "list archived ones too")
	return cmd
}

// maxPEM bounds what is read of a file that should be a certificate, in bytes.
const maxPEM = 1 << 20

func newCertificateAdd() *cobra.Command {
	cmd := newCall("add TUNNEL PATH", "Let a tunnel trust a CA", "  hearth tunnels certificates add tnl_… ca.pem",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			in := cmd.InOrStdin()
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return usageError("%w", err)
				}
				defer f.Close()
				in = f
			}
			text, err := io.ReadAll(io.LimitReader(in, maxPEM))
			if err != nil {
				return err
			}
			var made api.TunnelCertificate
			if err := c.Do(cmd.Context(), http.MethodPost, certificatesOf(args[0]), map[string]any{"ca_certificate_pem": string(text)}, &made); err != nil {
				return err
			}
			return printOne(cmd, out, certificateColumns, made)
		})
	cmd.Long = `Let a tunnel trust a CA: the certificates of the servers at its far end must be
signed by it directly. PATH is the CA's certificate in PEM, - for standard input;
its key stays where it is. To make a CA:

  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1825 \
    -subj '/CN=tunnel CA' -addext 'basicConstraints=critical,CA:TRUE' \
    -addext 'keyUsage=critical,keyCertSign' -keyout ca.key -out ca.pem`
	return cmd
}

func newCertificateArchive() *cobra.Command {
	return newCall("archive TUNNEL ID", "Have a tunnel no longer trust a CA", "  hearth tunnels certificates archive tnl_… tcrt_…",
		func(cmd *cobra.Command, c *client.Client, out output, args []string) error {
			var gone api.TunnelCertificate
			if err := c.Do(cmd.Context(), http.MethodPost, certificatesOf(args[0])+"/"+url.PathEscape(args[1])+"/archive", nil, &gone); err != nil {
				return err
			}
			return printOne(cmd, out, certificateColumns, gone)
		})
}
