package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// into puts what parse makes of a value into target.
func into[T any](target *T, parse func(string) (T, error)) func(string) error {
	return func(value string) (err error) {
		*target, err = parse(value)
		return err
	}
}

func text(value string) (string, error) { return value, nil }

func secretText(value string) (secret.Text, error) { return secret.New(value), nil }

func redisURL(value string) (secret.Text, error) {
	scheme, _, found := strings.Cut(value, "://")
	if !found || !slices.Contains([]string{
		"redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster",
	}, scheme) {
		return secret.Text{}, errors.New("is no Redis URL; write it like redis://user:password@host:6379/0")
	}
	return secret.New(value), nil
}

func address(value string) (string, error) {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		return "", errors.New("is no address; write it like 127.0.0.1:8080 or :8080")
	}
	if number, err := strconv.Atoi(port); err != nil || number < 0 || number > 65535 {
		return "", fmt.Errorf("has the port %q, and a port is a number up to 65535", port)
	}
	return value, nil
}

func list(value string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part == "" {
			return nil, errors.New("has an empty part between commas")
		}
		parts = append(parts, part)
	}
	return parts, nil
}

func duration(value string) (time.Duration, error) {
	parsed, err := time.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return 0, errors.New("is no duration above zero; write it like 90s, 10m or 24h")
	}
	return parsed, nil
}

// upTo is a duration that has a bound.
func upTo(most time.Duration) func(string) (time.Duration, error) {
	return func(value string) (time.Duration, error) {
		parsed, err := duration(value)
		if err == nil && parsed > most {
			err = fmt.Errorf("is longer than %v, which is the most", most)
		}
		return parsed, err
	}
}

// orOff is a path, empty for the word off.
func orOff(value string) (string, error) {
	if value == "off" {
		return "", nil
	}
	return value, nil
}

func count(value string) (int, error) {
	parsed, err := strconv.Atoi(value)
	if err != nil || parsed < 0 {
		return 0, errors.New("is no whole number from zero up")
	}
	return parsed, nil
}

func positive(value string) (int, error) {
	parsed, err := strconv.Atoi(value)
	if err != nil || parsed < 1 {
		return 0, errors.New("is no whole number above zero")
	}
	return parsed, nil
}

func size(value string) (int64, error) {
	digits := strings.TrimRight(value, "KMGTiB ")
	number, err := strconv.ParseInt(digits, 10, 64)
	unit, known := map[string]int64{
		"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}[strings.TrimSpace(value[len(digits):])]
	if err != nil || !known || number < 1 || number > (1<<62)/unit {
		return 0, errors.New("is no size; write it like 5MB, 4GiB or a number of bytes")
	}
	return number * unit, nil
}

func oneOf(allowed ...string) func(string) (string, error) {
	return func(value string) (string, error) {
		if !slices.Contains(allowed, value) {
			return "", fmt.Errorf("is none of %s", strings.Join(allowed, ", "))
		}
		return value, nil
	}
}

func anyURL(value string) (string, error) {
	if parsed, err := url.Parse(value); err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return "", errors.New("is no http or https URL")
	}
	return value, nil
}

func secureURL(value string) (string, error) {
	_, err := baseURL(value)
	return value, err
}

// template is a URL with a place for the label of an Isolated Cloud.
func template(value string) (string, error) {
	const place = "{IC_LABEL}"
	if strings.Count(value, place) != 1 {
		return "", fmt.Errorf("does not hold %s once, where the label of an Isolated Cloud goes", place)
	}
	_, err := baseURL(strings.Replace(value, place, "label", 1))
	return value, err
}

// artifactURL checks the form; package artifact knows the rest.
func artifactURL(value string) (string, error) {
	parsed, err := url.Parse(value)
	if err != nil || parsed.Scheme != "mem" && (parsed.Scheme != "file" || parsed.Host != "" || parsed.Path == "") {
		return "", errors.New("is no place for artifacts; write it like file:///var/lib/gitsmith/artifacts")
	}
	return value, nil
}

// baseURL is a URL that tokens or keys may travel to: https, or http within this machine.
func baseURL(value string) (*url.URL, error) {
	parsed, err := url.Parse(value)
	switch {
	case err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https":
		return nil, errors.New("is no URL; write it like https://bitbucket.org")
	case parsed.User != nil:
		return nil, errors.New("holds credentials; take them out, the job's own token is used")
	case parsed.Scheme == "http" && !isLoopback(parsed.Hostname()):
		return nil, errors.New("is plain http to another host; use https")
	}
	return parsed, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
