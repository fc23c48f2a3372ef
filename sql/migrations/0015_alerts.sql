-- Whom alarms were told to.

-- A channel of the settings since it was first seen, and how it does: "again_at" is when one that failed is tried
-- again, "error" what went wrong, without its address.
CREATE TABLE alert_channels (
    name text NOT NULL,
    since timestamptz NOT NULL,
    last_sent_at timestamptz,
    failures_in_row integer NOT NULL DEFAULT 0,
    again_at timestamptz,
    error text,
    CONSTRAINT alert_channels_pkey PRIMARY KEY (name),
    CONSTRAINT alert_channels_error_check CHECK ((failures_in_row = 0) = (error IS NULL))
);

-- What was told at a channel: of an alarm that it began, when last that it stands, and that it is over; of a
-- review its verdict. "about" is the alarm's id, or made of what the review is.
CREATE TABLE alerts (
    channel text NOT NULL,
    about uuid NOT NULL,
    told_at timestamptz NOT NULL,
    repeated_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT alerts_pkey PRIMARY KEY (channel, about)
);

-- squawk-ignore require-concurrent-index-creation
CREATE INDEX alarms_ended_idx ON alarms (ended_at) WHERE ended_at IS NOT NULL;

SELECT grant_roles();
