package worker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// TestTokenRunsOutWhileItIsUsed: a refusal says something of the rights only where the token was alive.
func TestTokenRunsOutWhileItIsUsed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		took    time.Duration
		tokens  []forge.OAuthToken
		want    fault.Kind
		refused int
		bounded bool // by the token's life
	}{
		"it was alive":     {59 * time.Minute, []forge.OAuthToken{token(time.Hour)}, fault.Denied, 1, true},
		"there is no new":  {time.Hour, []forge.OAuthToken{token(time.Hour)}, fault.Expired, 0, false},
		"it is gone":       {time.Hour, []forge.OAuthToken{token(time.Hour), {}}, fault.Expired, 0, false},
		"another has come": {time.Hour, []forge.OAuthToken{token(time.Hour), token(2 * time.Hour)}, fault.Unavailable, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, clock := newWorld(), now
			w.tokens = tc.tokens
			w.describe = func(secret.Text) (bitbucket.Details, error) {
				clock = clock.Add(tc.took)
				return bitbucket.Details{}, fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "refused")
			}
			under := w.worker()
			under.Now = func() time.Time { return clock }
			_, err := under.Describe(t.Context(), pushJob(nil))
			var bounded *job.AttemptError
			if fault.KindOf(err) != tc.want || w.known.refused != tc.refused || errors.As(err, &bounded) != tc.bounded {
				t.Errorf("%s: %v, %d refusals noted", fault.KindOf(err), err, w.known.refused)
			}
			if counted := len(w.calls) == 1 && w.calls[0] == "expired"; counted != (tc.want == fault.Expired) {
				t.Error(w.calls)
			}
		})
	}
}
