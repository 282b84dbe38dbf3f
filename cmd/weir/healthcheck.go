package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type healthcheckCmd struct {
	Admin   string        `placeholder:"URL" default:"http://127.0.0.1:8432" env:"WEIR_ADMIN" help:"Admin listener to ask (${default})."`
	Ready   bool          `help:"Ask whether it can serve (/readyz), not only whether it is alive (/healthz)."`
	Timeout time.Duration `default:"3s" help:"How long to wait for the answer (${default})."`
}

// Run succeeds when the weir says that it is well.
func (c healthcheckCmd) Run(ctx context.Context, term terminal) error {
	admin := c.Admin
	if !strings.Contains(admin, "://") {
		admin = "http://" + admin
	}
	base, err := url.Parse(admin)
	if err != nil || base.Host == "" {
		return usageError{fmt.Errorf("--admin: %q is not a URL like http://127.0.0.1:8432", c.Admin)}
	}
	path := "/healthz"
	if c.Ready {
		path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(path).String(), nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment in between
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", request.URL, err)
	}
	said := strings.TrimSpace(string(body))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %s", request.URL, answer.Status, said)
	}
	term.say("%s", said)
	return nil
}
