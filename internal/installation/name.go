package installation

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	// nameLife is how long Bitbucket's word on a repository counts: renames are told by an event, which may be lost.
	nameLife = time.Hour
	// nearPause is how long nobody asks again whom Bitbucket has told that its rate limit is near. It counts over a rolling hour.
	nearPause = time.Minute
)

// Name is what Bitbucket said of the repository with these UUIDs within the last hour; found is false where it has to be asked. While
// its rate limit is near, that is a Throttled fault.
func (s *Store) Name(ctx context.Context, id string, repository bitbucket.Repository) (info bitbucket.Info, found bool, err error) {
	pipeline := s.redis.Pipeline()
	name, near := pipeline.Get(ctx, keyspace.Installation(id).Name(repository.RepositoryUUID)), pipeline.PTTL(ctx, keyspace.Installation(id).NearLimit())
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return bitbucket.Info{}, false, unavailable(err, "look up a repository's name")
	}
	text := name.Val()
	if wait := near.Val(); text == "" && wait > 0 {
		throttled := fault.Newf(fault.Throttled, "look up repository %s: bitbucket's rate limit is near; it is tried again later", repository)
		throttled.RetryAfter = wait
		return bitbucket.Info{}, false, throttled
	}
	info, found = readName(text)
	return info, found, nil
}

// readName reads what KeepName wrote. What is damaged, or of another version, counts as nothing: Bitbucket is asked again.
func readName(text string) (info bitbucket.Info, found bool) {
	err := json.Unmarshal([]byte(text), &info)
	return info, err == nil && info.Repository.Resolved() && info.Repository.Validate() == nil
}

// KeepName remembers what Bitbucket said, and that its rate limit is near.
func (s *Store) KeepName(ctx context.Context, id string, repository bitbucket.Repository, info bitbucket.Info) error {
	text, err := json.Marshal(info)
	if err != nil {
		return err
	}
	pipeline := s.redis.Pipeline()
	pipeline.Set(ctx, keyspace.Installation(id).Name(repository.RepositoryUUID), text, nameLife)
	if info.NearLimit {
		pipeline.Set(ctx, keyspace.Installation(id).NearLimit(), 1, nearPause)
	}
	_, err = pipeline.Exec(ctx)
	return unavailable(err, "remember a repository's name")
}

// DropName forgets a name that may be wrong by now.
func (s *Store) DropName(ctx context.Context, id, repositoryUUID string) error {
	return unavailable(s.redis.Del(ctx, keyspace.Installation(id).Name(repositoryUUID)).Err(), "forget a repository's name")
}
