package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"
)

const loginHelp = `Sign on at the OpenID provider that the server trusts, in a browser on whatever
device has one, and print the token. It stands for you wherever an API key does,
until it expires:

  hearth login > token && chmod 600 token
  hearth agents list --api-key-file token

The provider must know this command as a public client that may use device
codes (RFC 8628). A token that was got in any other way does as well.`

func newLogin() *cobra.Command {
	var issuer, clientID, scope string
	cmd := &cobra.Command{
		Use:     "login",
		Short:   "Sign on at an OpenID provider and print the token",
		Long:    loginHelp,
		GroupID: "resource",
		Example: "  hearth login --oidc-issuer https://id.example --oidc-audience hearth > token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if issuer == "" || clientID == "" {
				return usageError("--oidc-issuer and --oidc-audience are needed, as the server has them")
			}
			provider, err := oidc.NewProvider(cmd.Context(), issuer)
			if err != nil {
				return fmt.Errorf("ask %s: %w", issuer, err)
			}
			token, err := signOn(cmd, oauth2.Config{ClientID: clientID, Endpoint: provider.Endpoint(), Scopes: strings.Fields(scope)})
			if err != nil {
				return fmt.Errorf("sign on at %s: %w", issuer, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	cmd.Flags().StringVar(&issuer, "oidc-issuer", "", "the OpenID provider, by its address")
	cmd.Flags().StringVar(&clientID, "oidc-audience", "", "the server's client id at the provider")
	cmd.Flags().StringVar(&scope, "oidc-scope", "openid profile groups", "what to ask the provider for, with spaces between")
	return cmd
}

// signOn has the person confirm on another device and returns their ID token.
func signOn(cmd *cobra.Command, config oauth2.Config) (string, error) {
	if config.Endpoint.DeviceAuthURL == "" {
		return "", errors.New("it has no device codes; get a token in another way, and give it by --api-key-file")
	}
	code, err := config.DeviceAuth(cmd.Context())
	if err != nil {
		return "", err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "open %s and enter %s\n", code.VerificationURI, code.UserCode)
	token, err := config.DeviceAccessToken(cmd.Context(), code)
	if err != nil {
		return "", err
	}
	id, ok := token.Extra("id_token").(string)
	if !ok {
		return "", errors.New("it gave no ID token; is openid among --oidc-scope?")
	}
	return id, nil
}
