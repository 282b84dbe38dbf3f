package fleet

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// How long Redis may take. Nobody waits for it, so these only bound how soon it is seen to be gone.
const (
	dialTimeout = 500 * time.Millisecond
	callTimeout = 100 * time.Millisecond
	poolTimeout = 50 * time.Millisecond
	poolSize    = 8
)

// newClient connects nothing yet.
func newClient(rawURL string) (redis.UniversalClient, error) {
	opts, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	logging.Disable() // go-redis writes to standard error otherwise; what matters reaches us as errors

	opts.Protocol = 2
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1 // the next beat is the retry
	opts.DialerRetries = 1
	opts.PoolSize = poolSize
	opts.PipelinePoolSize = -1
	opts.PoolTimeout = poolTimeout
	opts.ReadBufferSize, opts.WriteBufferSize = 4<<10, 4<<10
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return redis.NewUniversalClient(opts), nil
}

// parseURL understands
//
//	redis://[user:password@]host[:port][/database]
//	redis+sentinel://[user:password@]host[:port][,host[:port]...]/master-name[/database]
//	redis+cluster://[user:password@]host[:port][,host[:port]...]
//
// each also with rediss for TLS, and the parameters below. In a list either all hosts have a port or none. Its errors do not quote the URL, which may hold a password.
func parseURL(raw string) (*redis.UniversalOptions, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL; special characters in its password must be percent-encoded")
	}
	transport, kind, _ := strings.Cut(u.Scheme, "+")
	opts := &redis.UniversalOptions{
		DialTimeout:   dialTimeout,
		ReadTimeout:   callTimeout,
		WriteTimeout:  callTimeout,
		IsClusterMode: kind == "cluster",
	}
	if transport == "rediss" {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if u.User != nil {
		opts.Username = u.User.Username()
		opts.Password, _ = u.User.Password()
	}
	port := "6379"
	if kind == "sentinel" {
		port = "26379"
	}
	if opts.Addrs, err = addresses(u.Host, port); err != nil {
		return nil, err
	}
	if kind == "" && len(opts.Addrs) > 1 {
		return nil, errors.New("several hosts need the scheme redis+cluster or redis+sentinel")
	}
	if err := parsePath(opts, kind, strings.Trim(u.Path, "/")); err != nil {
		return nil, err
	}
	return opts, parseParameters(opts, u.Query())
}

// addresses splits a comma-separated list of hosts, each of which may lack its port.
func addresses(hosts, port string) (addrs []string, err error) {
	for host := range strings.SplitSeq(hosts, ",") {
		one := url.URL{Host: host}
		if one.Hostname() == "" {
			return nil, errors.New("names no host")
		}
		p := one.Port()
		if p == "" {
			p = port
		}
		addrs = append(addrs, net.JoinHostPort(one.Hostname(), p))
	}
	return addrs, nil
}

func parsePath(opts *redis.UniversalOptions, kind, path string) (err error) {
	database := path
	switch kind {
	case "sentinel":
		opts.MasterName, database, _ = strings.Cut(path, "/")
		if opts.MasterName == "" {
			return errors.New("names no master: expected redis+sentinel://host:26379/master-name")
		}
	case "cluster":
		if path != "" && path != "0" {
			return errors.New("names a database, which a cluster does not have")
		}
	}
	if database == "" {
		return nil
	}
	if opts.DB, err = strconv.Atoi(database); err != nil || opts.DB < 0 {
		return fmt.Errorf("names a database that is not a number: %q", database)
	}
	return nil
}

func parseParameters(opts *redis.UniversalOptions, query url.Values) (err error) {
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "dial_timeout":
			opts.DialTimeout, err = time.ParseDuration(value)
		case "read_timeout":
			opts.ReadTimeout, err = time.ParseDuration(value)
		case "write_timeout":
			opts.WriteTimeout, err = time.ParseDuration(value)
		case "sentinel_username":
			opts.SentinelUsername = value
		case "sentinel_password":
			opts.SentinelPassword = value
		default:
			return fmt.Errorf("has an unknown parameter %q", name)
		}
		if err != nil {
			return fmt.Errorf("parameter %s is not a duration such as 100ms", name)
		}
	}
	return nil
}
