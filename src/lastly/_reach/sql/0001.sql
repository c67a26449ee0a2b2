-- The shared journal: hosts with their leases, owners, cleanups, and the functions that alone may change them.
--
-- Every function is one trip. Who calls it is `session_user`; the tables belong to whoever migrates. The only
-- clock is this server's, and it is compared with itself alone.

CREATE SCHEMA lastly;

-- How often this database's history has forked: a standby that takes over, or a restored backup, begins a new timeline.
CREATE FUNCTION lastly.timeline() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint;
EXCEPTION WHEN others THEN  -- a server with a storage of its own, which forgets nothing
  RETURN 0;
END $$;

CREATE TABLE lastly.version (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  schema integer NOT NULL,   -- the number of the last migration
  oldest integer NOT NULL,   -- programs made for an earlier schema than this one must not use it
  timeline bigint NOT NULL DEFAULT lastly.timeline()
);

CREATE SEQUENCE lastly.epochs;
CREATE SEQUENCE lastly.claims;  -- fencing tokens, ascending over everything

-- A number that is used once. A standby may take over that never heard of the last ones; its own are larger than all
-- of those, so that a host or a worker from before cannot be taken for one from after.
CREATE FUNCTION lastly.once(p_sequence regclass) RETURNS bigint LANGUAGE sql SET search_path = lastly, pg_temp AS $$
  SELECT (greatest(timeline() - v.timeline, 0) << 40) + nextval(p_sequence) FROM version v
$$;

CREATE TABLE lastly.hosts (  -- one row per joining; its key is the epoch of that lease, and never used twice
  epoch bigint PRIMARY KEY DEFAULT lastly.once('lastly.epochs'),
  name text NOT NULL,
  boot text NOT NULL,
  login name NOT NULL,
  ttl float8 NOT NULL CHECK (ttl BETWEEN 1 AND 86400),
  beat bigint NOT NULL DEFAULT 0,
  beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  joined timestamptz NOT NULL DEFAULT clock_timestamp(),
  state text NOT NULL DEFAULT 'alive' CHECK (state IN ('alive', 'dead', 'left')),
  judged timestamptz,
  told jsonb NOT NULL DEFAULT '{}'  -- what its relay measures of itself
) WITH (fillfactor = 50);    -- no index on what a beat changes: every beat is a HOT update

CREATE TABLE lastly.owners (
  owner bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  epoch bigint NOT NULL REFERENCES lastly.hosts,
  journal text NOT NULL CHECK (length(journal) < 1000),
  queue text NOT NULL CHECK (length(queue) BETWEEN 1 AND 200),
  token text NOT NULL,
  about jsonb NOT NULL DEFAULT '{}',
  state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'orphan', 'settled')),
  claim bigint NOT NULL DEFAULT 0,
  claimed_by text,
  claimed_until timestamptz,
  next_at timestamptz,
  settled timestamptz,
  UNIQUE (journal, epoch)
) WITH (fillfactor = 70);
CREATE INDEX owners_due ON lastly.owners (queue, next_at) WHERE state = 'orphan';
CREATE INDEX owners_epoch ON lastly.owners (epoch);
CREATE INDEX owners_settled ON lastly.owners (settled) WHERE state = 'settled';

CREATE TABLE lastly.cleanups (
  owner bigint NOT NULL REFERENCES lastly.owners ON DELETE CASCADE,
  id bigint NOT NULL,
  action text NOT NULL CHECK (action ~ '^[\w.]+:[\w.]+$' AND length(action) < 300),
  args jsonb NOT NULL,
  kwargs jsonb NOT NULL,
  known jsonb NOT NULL DEFAULT '{}',
  what text NOT NULL DEFAULT '',
  phase integer NOT NULL DEFAULT 0,
  retries integer NOT NULL DEFAULT 5,
  timeout float8 NOT NULL DEFAULT 60,
  backoff float8 NOT NULL DEFAULT 1,
  state text NOT NULL DEFAULT 'planned'
    CHECK (state IN ('planned', 'active', 'running', 'failed', 'done', 'released', 'void', 'abandoned')),
  attempts integer NOT NULL DEFAULT 0,
  claim bigint NOT NULL DEFAULT 0,
  error text,
  reason text,
  next_at timestamptz,
  planned timestamptz NOT NULL DEFAULT clock_timestamp(),
  changed timestamptz,
  PRIMARY KEY (owner, id),
  CHECK (pg_column_size(args) + pg_column_size(kwargs) < 65536)
) WITH (fillfactor = 70);
CREATE INDEX cleanups_abandoned ON lastly.cleanups (owner) WHERE state = 'abandoned';

CREATE TABLE lastly.events (
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  owner bigint, id bigint, what text NOT NULL, by text, claim bigint, detail text
) PARTITION BY RANGE (at);
CREATE TABLE lastly.events_other PARTITION OF lastly.events DEFAULT;
CREATE INDEX events_owner ON lastly.events (owner);

CREATE TABLE lastly.workers (
  name text PRIMARY KEY, queue text NOT NULL, actions text[] NOT NULL, version text NOT NULL DEFAULT '',
  same boolean NOT NULL DEFAULT false,  -- it serves only what programs of its own version owe
  seen timestamptz NOT NULL DEFAULT clock_timestamp(), stopped boolean NOT NULL DEFAULT false
);

CREATE TABLE lastly.drained (  -- hosts that take no new plans
  name text PRIMARY KEY, by text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE lastly.queue_logins (  -- a queue that is named here is for these logins and their members alone
  queue text NOT NULL, login name NOT NULL, PRIMARY KEY (queue, login)
);

CREATE FUNCTION lastly.owed(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
  RETURN state IN ('planned', 'active', 'running', 'failed');

-- Whether the caller may act on this queue, and see what is in it.
CREATE FUNCTION lastly.may(p_queue text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = lastly, pg_temp AS $$
  SELECT coalesce(bool_or(l.login = session_user OR pg_has_role(session_user, r.oid, 'MEMBER')), true)
    FROM queue_logins l LEFT JOIN pg_roles r ON r.rolname = l.login WHERE l.queue = p_queue
$$;

CREATE FUNCTION lastly.versions(OUT schema integer, OUT oldest integer) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = lastly, pg_temp AS $$ SELECT schema, oldest FROM version $$;

-- ---- what hosts call

CREATE FUNCTION lastly.join_host(p_name text, p_boot text, p_ttl float8) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
  INSERT INTO hosts (name, boot, login, ttl) VALUES (left(p_name, 255), left(p_boot, 255), session_user, p_ttl)
  RETURNING epoch
$$;

-- A beat, with plans and words. False: this epoch is over, and nothing was written. The lock on the host's row
-- orders it against `judge`: a plan is there when its host is judged, or it is refused. `p_again`: they are owed
-- already, and are told once more. `p_told`: what the relay measures of itself.
CREATE FUNCTION lastly.flush(p_epoch bigint, p_plans jsonb DEFAULT '[]', p_words jsonb DEFAULT '[]',
  p_again boolean DEFAULT false, p_told jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  host text;
BEGIN
  UPDATE hosts SET beat = beat + 1, beat_at = clock_timestamp(), told = coalesce(p_told, told)
   WHERE epoch = p_epoch AND state = 'alive' AND login = session_user RETURNING name INTO host;
  IF NOT FOUND THEN RETURN false; END IF;
  IF jsonb_array_length(p_plans) > 0 THEN
    IF NOT p_again THEN PERFORM lastly.check_plans(host, p_epoch, p_plans); END IF;
    IF EXISTS (SELECT FROM jsonb_to_recordset(p_plans) AS p(journal text) WHERE NOT EXISTS (
        SELECT FROM owners o WHERE o.journal = p.journal AND o.epoch = p_epoch AND o.state <> 'settled')) THEN
      INSERT INTO owners (epoch, journal, queue, token, about)
        SELECT DISTINCT ON (journal) p_epoch, journal, queue, token, coalesce(about, '{}')
          FROM jsonb_to_recordset(p_plans) AS p(journal text, queue text, token text, about jsonb)
         WHERE NOT EXISTS (SELECT FROM owners o WHERE o.journal = p.journal AND o.epoch = p_epoch)
        ON CONFLICT (journal, epoch) DO NOTHING;
      UPDATE owners SET state = 'live', settled = NULL
       WHERE epoch = p_epoch AND state = 'settled'
         AND journal IN (SELECT p.journal FROM jsonb_to_recordset(p_plans) AS p(journal text));
    END IF;
    INSERT INTO cleanups (owner, id, action, args, kwargs, known, what, phase, retries, timeout, backoff, state)
      SELECT o.owner, p.id, p.action, coalesce(p.args, '[]'), coalesce(p.kwargs, '{}'), coalesce(p.known, '{}'),
             coalesce(left(p.what, 1000), ''), coalesce(p.phase, 0), coalesce(p.retries, 5),
             coalesce(p.timeout, 60), coalesce(p.backoff, 1),
             CASE WHEN coalesce(p.known, '{}') = '{}' THEN 'planned' ELSE 'active' END
        FROM jsonb_to_recordset(p_plans) AS p(journal text, id bigint, action text, args jsonb, kwargs jsonb, known jsonb,
             what text, phase integer, retries integer, timeout float8, backoff float8)
        JOIN owners o ON o.journal = p.journal AND o.epoch = p_epoch
      ON CONFLICT (owner, id) DO NOTHING;
  END IF;
  IF jsonb_array_length(p_words) > 0 THEN
    UPDATE cleanups c SET
        known = c.known || coalesce(w.known, '{}'),
        state = CASE WHEN NOT owed(c.state) THEN c.state
                     WHEN w.state IN ('done', 'released', 'void', 'abandoned', 'failed') THEN w.state
                     WHEN c.state = 'planned' THEN 'active' ELSE c.state END,
        error = coalesce(left(w.error, 4000), c.error), attempts = greatest(c.attempts, coalesce(w.attempts, 0)),
        reason = coalesce(left(w.reason, 4000), c.reason), changed = clock_timestamp()
      FROM jsonb_to_recordset(p_words) AS w(journal text, id bigint, state text, known jsonb, error text,
           reason text, attempts integer)
      JOIN owners o ON o.journal = w.journal AND o.epoch = p_epoch AND o.state = 'live'
     WHERE c.owner = o.owner AND c.id = w.id;
    -- The journal itself has ended on its host: whatever it still said here was lost on the way.
    WITH ended AS (
      UPDATE owners o SET state = 'settled', settled = clock_timestamp()
        FROM jsonb_to_recordset(p_words) AS w(journal text, id bigint, state text)
       WHERE o.journal = w.journal AND o.epoch = p_epoch AND o.state = 'live' AND w.id = 0 AND w.state = 'ended'
      RETURNING o.owner)
    UPDATE cleanups c SET state = 'released', reason = 'its journal ended on its host', changed = clock_timestamp()
      FROM ended WHERE c.owner = ended.owner AND owed(c.state);
  END IF;
  RETURN true;
END $$;

-- Refuse new plans of a drained host, and those for a queue that is not the caller's. Not for callers.
CREATE FUNCTION lastly.check_plans(p_host text, p_epoch bigint, p_plans jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  other text;
BEGIN
  SELECT min(queue) INTO other FROM jsonb_to_recordset(p_plans) AS p(queue text) WHERE NOT may(queue);
  IF other IS NOT NULL THEN
    RAISE integrity_constraint_violation USING MESSAGE = format('queue %s is not for the login %s', other, session_user);
  END IF;
  IF EXISTS (SELECT FROM drained WHERE name = p_host)
     AND EXISTS (SELECT FROM jsonb_to_recordset(p_plans) AS p(journal text, id bigint)
                  WHERE NOT EXISTS (SELECT FROM owners o JOIN cleanups c USING (owner)
                                     WHERE o.journal = p.journal AND o.epoch = p_epoch AND c.id = p.id)) THEN
    RAISE integrity_constraint_violation USING
      MESSAGE = format('this host is drained: use another, or run `lastly hosts --undrain %s`', p_host);
  END IF;
END $$;

-- True: the lease is given back. False: something is still owed, or the lease is not this caller's.
CREATE FUNCTION lastly.leave(p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  PERFORM FROM hosts WHERE epoch = p_epoch AND state = 'alive' AND login = session_user FOR UPDATE;
  IF NOT FOUND OR EXISTS (SELECT FROM owners JOIN cleanups USING (owner)
      WHERE epoch = p_epoch AND owners.state = 'live' AND owed(cleanups.state)) THEN
    RETURN false;
  END IF;
  UPDATE owners SET state = 'settled', settled = clock_timestamp() WHERE epoch = p_epoch AND state = 'live';
  UPDATE hosts SET state = 'left' WHERE epoch = p_epoch;
  RETURN true;
END $$;

-- A host that joined anew takes back what its earlier leases hold and no worker has claimed. What a worker has
-- claimed is told: what became of each of these cleanups.
CREATE FUNCTION lastly.reclaim(p_epoch bigint, p_journals text[])
RETURNS TABLE (journal text, lost boolean, state text, cleanups jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
#variable_conflict use_column
DECLARE
  one record;
  kept bigint;
BEGIN
  PERFORM FROM hosts h WHERE h.epoch = p_epoch AND h.state = 'alive' AND h.login = session_user FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  FOR one IN
    SELECT o.owner, o.journal FROM owners o JOIN hosts h USING (epoch)
     WHERE o.journal = ANY (p_journals) AND o.epoch <> p_epoch AND h.login = session_user
       AND (o.state = 'live' OR (o.state = 'orphan' AND o.claim = 0))
     ORDER BY o.owner DESC FOR UPDATE OF o
  LOOP
    SELECT o.owner INTO kept FROM owners o WHERE o.journal = one.journal AND o.epoch = p_epoch;
    IF NOT FOUND THEN
      UPDATE owners o SET epoch = p_epoch, state = 'live', next_at = NULL WHERE o.owner = one.owner;
    ELSE  -- of several leases: they become one
      UPDATE cleanups c SET owner = kept
       WHERE c.owner = one.owner AND NOT EXISTS (SELECT FROM cleanups d WHERE d.owner = kept AND d.id = c.id);
      UPDATE owners o SET state = 'live', settled = NULL WHERE o.owner = kept;
      DELETE FROM owners o WHERE o.owner = one.owner;
    END IF;
  END LOOP;
  RETURN QUERY
    SELECT o.journal, o.epoch <> p_epoch, o.state,
           (SELECT jsonb_agg(jsonb_build_object('id', c.id, 'state', c.state, 'by', o.claimed_by))
              FROM cleanups c WHERE c.owner = o.owner)
      FROM owners o JOIN hosts h USING (epoch)
     WHERE o.journal = ANY (p_journals) AND h.login = session_user;
END $$;

-- The actions that the workers of a queue know.
CREATE FUNCTION lastly.served(p_queue text) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
  SELECT coalesce(array_agg(DISTINCT a), '{}') FROM workers, unnest(actions) AS a
   WHERE queue = p_queue AND NOT stopped AND seen > clock_timestamp() - interval '60 s'
$$;

-- ---- what workers call

-- What the owners of a lease that is over owe is for the workers from here on. Not for callers.
CREATE FUNCTION lastly.orphan(p_epoch bigint) RETURNS TABLE (owner bigint, queue text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE owners o SET state = 'settled', settled = clock_timestamp()
   WHERE o.epoch = p_epoch AND o.state = 'live'
     AND NOT EXISTS (SELECT FROM cleanups c WHERE c.owner = o.owner AND owed(c.state));
  RETURN QUERY UPDATE owners o SET state = 'orphan', next_at = clock_timestamp()
   WHERE o.epoch = p_epoch AND o.state = 'live' RETURNING o.owner, o.queue;
  UPDATE cleanups c SET state = 'failed', next_at = NULL FROM owners o
   WHERE o.epoch = p_epoch AND c.owner = o.owner AND o.state = 'orphan' AND o.claim = 0 AND c.state IN ('running', 'failed');
  PERFORM pg_notify('lastly_orphan', '');
END $$;

-- Declare a host dead that the caller saw at this very beat for a whole ttl. Nothing: it lives, or another was first.
CREATE FUNCTION lastly.judge(p_epoch bigint, p_beat bigint) RETURNS TABLE (owner bigint, queue text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  UPDATE hosts SET state = 'dead', judged = clock_timestamp()
   WHERE epoch = p_epoch AND beat = p_beat AND state = 'alive'
     AND beat_at < clock_timestamp() - make_interval(secs => ttl);
  IF NOT FOUND THEN RETURN; END IF;
  INSERT INTO events (what, by, detail) VALUES ('judged', session_user, p_epoch::text);
  RETURN QUERY SELECT * FROM orphan(p_epoch);
END $$;

-- Take an owner, and begin the first of its cleanups that are due and known to the caller. Null: somebody else has
-- it, or nothing is due. What was running under an earlier claim has had that attempt.
CREATE FUNCTION lastly.claim(p_owner bigint, p_by text, p_secs float8, p_actions text[], p_version text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  got owners;
  due jsonb;
BEGIN
  UPDATE owners SET claim = once('claims'), claimed_by = left(p_by, 255),
         claimed_until = clock_timestamp() + make_interval(secs => p_secs)
   WHERE owner = p_owner AND state = 'orphan' AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
     AND (p_version IS NULL OR about ->> 'version' = p_version) AND may(queue)
  RETURNING * INTO got;
  IF NOT FOUND THEN RETURN NULL; END IF;
  PERFORM lastly.failed(p_owner, id, 'attempt ' || attempts || ' ended with the death of who ran it', got.claimed_by)
     FROM cleanups WHERE owner = p_owner AND state = 'running';
  SELECT jsonb_agg(to_jsonb(c) - '{owner,planned,changed,next_at,claim,error,reason}'::text[] ORDER BY phase, id DESC) INTO due
    FROM cleanups c
   WHERE owner = p_owner AND owed(state) AND action = ANY (p_actions)
     AND (next_at IS NULL OR next_at <= clock_timestamp());
  IF due IS NULL THEN
    PERFORM lastly.finish(p_owner);
    RETURN NULL;
  END IF;
  UPDATE cleanups SET state = 'running', attempts = attempts + 1, claim = got.claim, changed = clock_timestamp()
   WHERE owner = p_owner AND id = (due -> 0 ->> 'id')::bigint;
  INSERT INTO events (owner, what, by, claim) VALUES (p_owner, 'claimed', got.claimed_by, got.claim);
  RETURN jsonb_build_object('owner', p_owner, 'claim', got.claim, 'token', got.token, 'queue', got.queue,
                            'journal', got.journal, 'cleanups', due);
END $$;

-- Up to n owners that are due and owe something that the caller knows, each claimed.
CREATE FUNCTION lastly.claim_due(p_queue text, p_by text, p_secs float8, p_actions text[], p_n integer,
  p_version text DEFAULT NULL) RETURNS SETOF jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  one bigint;
  got jsonb;
BEGIN
  FOR one IN
    SELECT o.owner FROM owners o
     WHERE o.state = 'orphan' AND o.queue = p_queue AND may(p_queue) AND o.next_at <= clock_timestamp()
       AND (p_version IS NULL OR o.about ->> 'version' = p_version)
       AND (o.claimed_until IS NULL OR o.claimed_until < clock_timestamp())
       AND EXISTS (SELECT FROM cleanups c WHERE c.owner = o.owner AND owed(c.state)
                   AND (c.action = ANY (p_actions) OR c.state = 'running')
                   AND (c.next_at IS NULL OR c.next_at <= clock_timestamp()))
     ORDER BY o.next_at LIMIT p_n FOR UPDATE SKIP LOCKED
  LOOP
    got := lastly.claim(one, p_by, p_secs, p_actions, p_version);
    IF got IS NOT NULL THEN RETURN NEXT got; END IF;
  END LOOP;
END $$;

-- An attempt was no success: again later, or given up. Not for callers.
CREATE FUNCTION lastly.failed(p_owner bigint, p_id bigint, p_error text, p_by text, p_final boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  got cleanups;
BEGIN
  UPDATE cleanups SET
      state = CASE WHEN p_final OR attempts > retries THEN 'abandoned' ELSE 'failed' END,
      error = left(p_error, 4000),
      reason = CASE WHEN p_final THEN left(p_error, 4000)
                    WHEN attempts > retries THEN left('gave up after attempt ' || attempts || ': ' || p_error, 4000) END,
      next_at = clock_timestamp() + make_interval(secs =>
        least(backoff * 2 ^ least(greatest(attempts - 1, 0), 30), 300) * (0.75 + random() / 2)),
      changed = clock_timestamp()
   WHERE owner = p_owner AND id = p_id RETURNING * INTO got;
  INSERT INTO events (owner, id, what, by, claim, detail) VALUES (p_owner, p_id, got.state, p_by, got.claim, left(p_error, 1000));
END $$;

-- Let an owner go: settled, or due at its earliest next attempt. Not for callers.
CREATE FUNCTION lastly.finish(p_owner bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  again timestamptz;
BEGIN
  SELECT min(coalesce(next_at, clock_timestamp())) INTO again FROM cleanups WHERE owner = p_owner AND owed(state);
  IF again IS NULL THEN
    UPDATE owners SET state = 'settled', settled = clock_timestamp(), claimed_until = NULL, next_at = NULL WHERE owner = p_owner;
    RETURN jsonb_build_object('state', 'settled');
  END IF;
  UPDATE owners SET claimed_until = NULL, next_at = again WHERE owner = p_owner;
  RETURN jsonb_build_object('state', 'orphan', 'next',
                            greatest(extract(epoch FROM again - clock_timestamp()), 0)::float8);
END $$;

-- End one cleanup, begin the next, and hold the claim for so many seconds more; the last one lets the owner go.
-- Null: the claim is somebody else's, and nothing was changed. Not for callers.
CREATE FUNCTION lastly.step(p_owner bigint, p_claim bigint, p_secs float8, p_ended bigint, p_outcome text, p_error text,
  p_begin bigint, p_finish boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  who text;
BEGIN
  UPDATE owners SET claimed_until = clock_timestamp() + make_interval(secs => p_secs)
   WHERE owner = p_owner AND claim = p_claim AND state = 'orphan' RETURNING claimed_by INTO who;
  IF NOT FOUND THEN RETURN NULL; END IF;
  -- A crash of this server may forget the last moments: then it is run once more. A claim is never forgotten. Where
  -- there is a standby that has to confirm, this is not forgotten either.
  IF current_setting('synchronous_standby_names') = '' THEN
    PERFORM set_config('synchronous_commit', 'off', true);
  END IF;
  IF p_ended IS NOT NULL THEN
    IF p_outcome = 'done' THEN
      UPDATE cleanups SET state = 'done', next_at = NULL, changed = clock_timestamp()
       WHERE owner = p_owner AND id = p_ended AND state = 'running' AND claim = p_claim;
    ELSE
      PERFORM lastly.failed(p_owner, id, p_error, who, p_outcome = 'abandoned')
         FROM cleanups WHERE owner = p_owner AND id = p_ended AND state = 'running' AND claim = p_claim;
    END IF;
  END IF;
  IF p_begin IS NOT NULL THEN
    -- Begun already: the answer was lost, and this is the same step again.
    UPDATE cleanups SET state = 'running', claim = p_claim, changed = clock_timestamp(),
           attempts = attempts + CASE WHEN state = 'running' AND claim = p_claim THEN 0 ELSE 1 END
     WHERE owner = p_owner AND id = p_begin AND owed(state);
    IF NOT FOUND THEN RETURN jsonb_build_object('state', 'skip'); END IF;  -- a person has forgotten it meanwhile
  END IF;
  IF p_finish THEN RETURN lastly.finish(p_owner); END IF;
  RETURN jsonb_build_object('state', 'held');
END $$;

-- One step for each of several owners, in one trip; each has its own claim, and its own answer in the same place.
CREATE FUNCTION lastly.steps(p_secs float8, p_steps jsonb) RETURNS jsonb
LANGUAGE sql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
  SELECT coalesce(jsonb_agg(step(owner, claim, p_secs, ended, outcome, error, begin, coalesce(finish, false))), '[]')
    FROM jsonb_to_recordset(p_steps)
      AS s(owner bigint, claim bigint, ended bigint, outcome text, error text, begin bigint, finish boolean)
$$;

CREATE FUNCTION lastly.worker_seen(p_name text, p_queue text, p_actions text[], p_version text,
  p_stopped boolean DEFAULT false, p_same boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  IF NOT may(p_queue) THEN
    RAISE insufficient_privilege USING MESSAGE = format('queue %s is not for the login %s', p_queue, session_user);
  END IF;
  INSERT INTO workers (name, queue, actions, version, stopped, same)
    VALUES (left(p_name, 255), p_queue, p_actions, left(p_version, 255), p_stopped, p_same)
  ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, actions = excluded.actions, version = excluded.version,
    stopped = excluded.stopped, same = excluded.same, seen = clock_timestamp();
END $$;

-- What nobody would find by itself: owners that live under a dead host, and due ones whose job was lost.
CREATE FUNCTION lastly.reconcile() RETURNS TABLE (owner bigint, queue text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  one bigint;
BEGIN
  FOR one IN SELECT DISTINCT h.epoch FROM hosts h JOIN owners o USING (epoch) WHERE h.state <> 'alive' AND o.state = 'live' LOOP
    PERFORM lastly.orphan(one);
  END LOOP;
  RETURN QUERY SELECT o.owner, o.queue FROM owners o
   WHERE o.state = 'orphan' AND o.next_at <= clock_timestamp()
     AND (o.claimed_until IS NULL OR o.claimed_until < clock_timestamp());
END $$;

-- Remove what is settled since so many days, up to a number of owners; returns how many went.
CREATE FUNCTION lastly.tidy(p_days float8, p_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
DECLARE
  month date := date_trunc('month', clock_timestamp() + interval '1 month');
  part text := 'events_' || to_char(month, 'YYYYMM');
  gone integer;
BEGIN
  IF to_regclass('lastly.' || part) IS NULL THEN
    EXECUTE format('CREATE TABLE lastly.%I PARTITION OF lastly.events FOR VALUES FROM (%L) TO (%L)',
                   part, month, month + interval '1 month');
  END IF;
  FOR part IN SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
      WHERE inhparent = 'lastly.events'::regclass AND c.relname ~ '^events_\d{6}$'
        AND to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' < clock_timestamp() - make_interval(secs => p_days * 86400) LOOP
    EXECUTE format('DROP TABLE lastly.%I', part);
  END LOOP;
  DELETE FROM owners WHERE owner IN (
    SELECT o.owner FROM owners o
     WHERE o.state = 'settled' AND o.settled < clock_timestamp() - make_interval(secs => p_days * 86400)
       AND NOT EXISTS (SELECT FROM cleanups c WHERE c.owner = o.owner AND c.state = 'abandoned')
     LIMIT p_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS gone = ROW_COUNT;
  DELETE FROM events_other WHERE at < clock_timestamp() - make_interval(secs => p_days * 86400);
  DELETE FROM hosts h WHERE h.state <> 'alive' AND NOT EXISTS (SELECT FROM owners o WHERE o.epoch = h.epoch);
  DELETE FROM workers WHERE seen < clock_timestamp() - interval '7 days';
  RETURN gone;
END $$;

-- ---- what people call

-- Declare a host dead that somebody knows is dead. If it lives after all it joins anew, and takes back what it can.
CREATE FUNCTION lastly.judge_host(p_epoch bigint) RETURNS TABLE (owner bigint, queue text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  UPDATE hosts SET state = 'dead', judged = clock_timestamp() WHERE epoch = p_epoch AND state = 'alive';
  IF NOT FOUND THEN RETURN; END IF;
  INSERT INTO events (what, by, detail) VALUES ('judged by a person', session_user, p_epoch::text);
  RETURN QUERY SELECT * FROM orphan(p_epoch);
END $$;

-- A drained host takes no new plans; what it owes stays its own. False: it is already as wanted.
CREATE FUNCTION lastly.drain(p_name text, p_drained boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  IF p_drained THEN
    INSERT INTO drained (name, by) VALUES (p_name, session_user) ON CONFLICT DO NOTHING;
  ELSE
    DELETE FROM drained WHERE name = p_name;
  END IF;
  IF FOUND THEN
    INSERT INTO events (what, by, detail) VALUES (CASE WHEN p_drained THEN 'drained' ELSE 'undrained' END, session_user, p_name);
  END IF;
  RETURN FOUND;
END $$;

-- Run it again now. False: it is not owed and not abandoned, or its host lives and settles it there.
CREATE FUNCTION lastly.retry(p_owner bigint, p_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  PERFORM FROM owners WHERE owner = p_owner AND state IN ('orphan', 'settled') AND may(queue) FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE cleanups SET state = 'failed', next_at = NULL, changed = clock_timestamp()
   WHERE owner = p_owner AND id = p_id AND state IN ('planned', 'active', 'failed', 'abandoned');
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE owners SET state = 'orphan', next_at = clock_timestamp(), settled = NULL WHERE owner = p_owner;
  INSERT INTO events (owner, id, what, by) VALUES (p_owner, p_id, 'retried', session_user);
  PERFORM pg_notify('lastly_orphan', '');
  RETURN true;
END $$;

-- Owe it no more, without running it. False: as above.
CREATE FUNCTION lastly.forget(p_owner bigint, p_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
BEGIN
  PERFORM FROM owners WHERE owner = p_owner AND state IN ('orphan', 'settled') AND may(queue) FOR UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE cleanups SET state = 'released', reason = 'forgotten by ' || session_user, changed = clock_timestamp()
   WHERE owner = p_owner AND id = p_id AND state IN ('planned', 'active', 'failed', 'abandoned');
  IF NOT FOUND THEN RETURN false; END IF;
  INSERT INTO events (owner, id, what, by) VALUES (p_owner, p_id, 'forgotten', session_user);
  UPDATE owners o SET state = 'settled', settled = clock_timestamp(), next_at = NULL
   WHERE owner = p_owner AND NOT EXISTS (SELECT FROM cleanups c WHERE c.owner = o.owner AND owed(c.state));
  RETURN true;
END $$;

CREATE VIEW lastly.host_list AS
  SELECT h.epoch, h.name, h.boot, h.login, h.ttl, h.state, h.joined, h.judged, h.beat_at,
         extract(epoch FROM clock_timestamp() - h.beat_at)::float8 AS silent,
         count(DISTINCT o.owner) FILTER (WHERE o.state <> 'settled') AS owners,
         count(c.id) FILTER (WHERE lastly.owed(c.state)) AS owed,
         EXISTS (SELECT FROM lastly.drained d WHERE d.name = h.name) AS drained
    FROM lastly.hosts h LEFT JOIN lastly.owners o USING (epoch) LEFT JOIN lastly.cleanups c USING (owner)
   GROUP BY h.epoch;

CREATE VIEW lastly.cleanup_list AS
  SELECT o.owner, c.id, c.action, c.args, c.kwargs, c.known, c.what, c.phase, c.retries, c.timeout, c.backoff, c.state,
         c.attempts, c.error, c.reason, c.claim, extract(epoch FROM c.planned)::float8 AS planned,
         extract(epoch FROM c.changed)::float8 AS changed, extract(epoch FROM c.next_at)::float8 AS next, o.queue, o.epoch, o.journal, o.about, o.state AS owner_state,
         o.claim AS owner_claim, o.claimed_by, o.claimed_until > clock_timestamp() AS claimed, h.name AS host, h.state AS host_state,
         CASE WHEN o.state = 'orphan' AND lastly.owed(c.state) AND NOT EXISTS (
           SELECT FROM lastly.workers w WHERE w.queue = o.queue AND NOT w.stopped
             AND w.seen > clock_timestamp() - interval '60 s' AND c.action = ANY (w.actions)
             AND (NOT w.same OR w.version = o.about ->> 'version'))
         THEN 'no worker knows ' || c.action END AS blocked
    FROM lastly.cleanups c JOIN lastly.owners o USING (owner) JOIN lastly.hosts h USING (epoch)
   WHERE lastly.may(o.queue);

CREATE VIEW lastly.event_list AS
  SELECT e.* FROM lastly.events e LEFT JOIN lastly.owners o USING (owner) WHERE o.owner IS NULL OR lastly.may(o.queue);

CREATE VIEW lastly.metrics AS
  SELECT 'hosts' AS name, jsonb_build_object('state', state) AS labels, count(*)::float8 AS value FROM lastly.hosts GROUP BY state
  UNION ALL
  SELECT 'owed', jsonb_build_object('queue', o.queue, 'state', c.state), count(*)
    FROM lastly.cleanups c JOIN lastly.owners o USING (owner)
   WHERE o.state <> 'settled' OR c.state = 'abandoned' GROUP BY o.queue, c.state
  UNION ALL
  SELECT 'oldest_orphan_seconds', '{}', coalesce(extract(epoch FROM clock_timestamp() - min(next_at)), 0)::float8
    FROM lastly.owners WHERE state = 'orphan' AND next_at <= clock_timestamp()
  UNION ALL
  SELECT 'no_worker_for', jsonb_build_object('action', action), count(*) FROM lastly.cleanup_list WHERE blocked IS NOT NULL GROUP BY action
  UNION ALL
  SELECT 'judged_total', '{}', count(*) FROM lastly.hosts WHERE judged IS NOT NULL
  UNION ALL  -- of the last flush of each living host
  SELECT one.name, jsonb_build_object('quantile', q::text), percentile_cont(q) WITHIN GROUP (ORDER BY (h.told ->> one.name)::float8)
    FROM lastly.hosts h, unnest('{flush_seconds,flush_batch,relay_lag_seconds}'::text[]) AS one(name), unnest('{0.5,0.99,1}'::float8[]) AS q
   WHERE h.state = 'alive' AND h.told ? one.name GROUP BY one.name, q;

-- Who would undo what a host of this queue owes: for `lastly doctor`.
CREATE FUNCTION lastly.who_serves(p_queue text, OUT workers bigint, OUT machines bigint, OUT blocked bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = lastly, pg_temp AS $$
  SELECT count(*), count(DISTINCT split_part(name, ':', 1)),
         (SELECT count(*) FROM cleanup_list c WHERE c.queue = p_queue AND c.blocked IS NOT NULL)
    FROM workers WHERE queue = p_queue AND NOT stopped AND seen > clock_timestamp() - interval '60 s'
$$;

-- ---- rights

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lastly FROM PUBLIC;
GRANT USAGE ON SCHEMA lastly TO lastly_host, lastly_worker, lastly_admin, lastly_reader;
GRANT EXECUTE ON FUNCTION lastly.versions TO lastly_host, lastly_worker, lastly_admin, lastly_reader;
GRANT EXECUTE ON FUNCTION lastly.join_host, lastly.flush, lastly.leave, lastly.reclaim, lastly.served, lastly.who_serves TO lastly_host;
GRANT EXECUTE ON FUNCTION lastly.who_serves TO lastly_worker, lastly_admin, lastly_reader;
GRANT EXECUTE ON FUNCTION lastly.may TO lastly_worker, lastly_admin, lastly_reader;
GRANT EXECUTE ON FUNCTION lastly.judge, lastly.claim, lastly.claim_due, lastly.steps, lastly.worker_seen, lastly.reconcile,
  lastly.tidy, lastly.owed TO lastly_worker;
-- What is in the queues of others a worker does not see, whatever it asks; the functions run as the tables' owner.
ALTER TABLE lastly.owners ENABLE ROW LEVEL SECURITY;
CREATE POLICY queues ON lastly.owners FOR SELECT TO lastly_worker USING (lastly.may(queue));
GRANT SELECT ON lastly.version, lastly.hosts, lastly.owners, lastly.workers TO lastly_worker;
GRANT SELECT, INSERT, DELETE ON lastly.queue_logins TO lastly_admin;
GRANT SELECT ON lastly.host_list, lastly.cleanup_list, lastly.event_list, lastly.metrics TO lastly_reader, lastly_worker, lastly_admin;
GRANT EXECUTE ON FUNCTION lastly.owed TO lastly_reader, lastly_admin;
GRANT EXECUTE ON FUNCTION lastly.judge_host, lastly.drain, lastly.retry, lastly.forget TO lastly_admin;
