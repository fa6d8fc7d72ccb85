package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"hearth/internal/brain/auth"
)

// signOnFlags say where people sign on.
type signOnFlags struct {
	issuer, audience, groupsClaim string
	grants                        grants
}

const defaultGroupsClaim = "groups"

func (f *signOnFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.issuer, "oidc-issuer", "", "the OpenID provider whose tokens are let in, by its address (default: none)")
	flags.StringVar(&f.audience, "oidc-audience", "", "whom its tokens must be for: this server's client id at the provider")
	flags.StringVar(&f.groupsClaim, "oidc-groups-claim", defaultGroupsClaim, "the claim with a person's groups, or the path to it with dots")
	flags.Var(&f.grants, "oidc-role", "who may do what, as ROLE=GROUP,… or ROLE@WORKSPACE=GROUP,…, with the roles admin, developer and viewer; give it once for each, or several with ; between")
}

// open returns what checks tokens; nil when there is no provider.
func (f *signOnFlags) open(cfg brainConfig) (*auth.SignOn, error) {
	if f.issuer == "" {
		if f.audience != "" || len(f.grants.list) > 0 || f.groupsClaim != "" && f.groupsClaim != defaultGroupsClaim {
			return nil, usageError("--oidc-audience, --oidc-role and --oidc-groups-claim are of no use without --oidc-issuer")
		}
		return nil, nil
	}
	on, err := auth.NewSignOn(auth.SignOnConfig{Issuer: f.issuer, Audience: f.audience, GroupsClaim: f.groupsClaim, Grants: f.grants.list, Log: cfg.log})
	if err != nil {
		return nil, usageError("single sign-on: %w (see --oidc-issuer, --oidc-audience and --oidc-role)", err)
	}
	return on, nil
}

// grants is a flag that may be repeated.
type grants struct {
	text string
	list []auth.Grant
}

func (g *grants) String() string { return g.text }

func (g *grants) Type() string { return "grants" }

// Set adds to what has been set before.
func (g *grants) Set(text string) error {
	var errs []error
	for one := range strings.SplitSeq(text, ";") {
		grant, err := auth.ParseGrant(strings.TrimSpace(one))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		g.list = append(g.list, grant)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	g.text = strings.TrimPrefix(g.text+";"+text, ";")
	return nil
}
