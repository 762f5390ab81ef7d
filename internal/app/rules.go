package app

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// rulesLook is how often the rules file is looked at.
const rulesLook = 2 * time.Second

// rules are those of a file, as it was when it was right last.
type rules struct {
	path    string // empty: none
	limits  job.Limits
	logger  *slog.Logger
	metrics *telemetry.Metrics
	content []byte // that was read last, right or wrong
	current atomic.Pointer[rule.Set]
}

// loadRules reads the file. One that is wrong is an error, with every problem by line.
func loadRules(path string, limits job.Limits, logger *slog.Logger, metrics *telemetry.Metrics) (*rules, error) {
	r := &rules{path: path, limits: limits, logger: logger, metrics: metrics}
	if path == "" {
		return r, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("GITSMITH_RULES: %w", err)
	}
	set, err := rule.Parse(content, limits)
	if err != nil {
		return nil, fmt.Errorf("GITSMITH_RULES (%s):\n%w", path, err)
	}
	r.content = content
	r.current.Store(set)
	metrics.Rules(set.Len(), false)
	return r, nil
}

// watch reads the file again when it has changed, and on SIGHUP, until ctx ends. A wrong one changes nothing but the metric and the log.
func (r *rules) watch(ctx context.Context) error {
	if r.path == "" {
		<-ctx.Done()
		return nil
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	tick := time.NewTicker(rulesLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.reload(ctx, false)
		case <-hangups:
			r.reload(ctx, true)
		}
	}
}

// reload takes over the file where it has changed; always, where somebody asked for it, so that the log answers.
func (r *rules) reload(ctx context.Context, asked bool) {
	content, err := os.ReadFile(r.path)
	if err == nil && !asked && r.content != nil && bytes.Equal(content, r.content) {
		return
	}
	if err != nil && !asked && r.content == nil {
		return // it was told that the file cannot be read
	}
	r.content = content
	var set *rule.Set
	if err == nil {
		set, err = rule.Parse(content, r.limits)
	}
	if err != nil {
		r.metrics.Rules(r.current.Load().Len(), true)
		r.logger.ErrorContext(ctx, "the rules file is wrong; the rules before it stay in force", slog.String(telemetry.KeyError, err.Error()))
		return
	}
	r.current.Store(set)
	r.metrics.Rules(set.Len(), false)
	r.logger.InfoContext(ctx, "the rules were read", slog.Int(telemetry.KeyCount, set.Len()))
}
